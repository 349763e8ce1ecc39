"""Sections about engines that run outside this process."""

from __future__ import annotations

from pydantic import Field, field_validator

from genac.config.base import Count, Rate, Section

# Of vllm serve: what requests and their answers depend on.
FIXED = (
    *("--served-model-name", "--host", "--port", "--dtype"),
    *("--logprobs-mode", "--max-logprobs", "--generation-config"),
    *("--quantization", "-q", "--kv-cache-dtype"),  # within what the probe of bf16 tolerates
    "--config",  # a file that may set any of these
)


class VllmConfig(Section):
    """vLLM's servers: started here, or running already."""

    python: str | None = Field(
        default=None,
        description="interpreter of an environment that has vLLM; none = the one that runs genac",
    )
    urls: list[str] = Field(
        default=[], description="addresses of servers that run already, used instead of own ones"
    )
    replicas: Count = Field(default=1, description="servers per model")
    kv_cache_gb: Rate | None = Field(
        default=None,
        description="GiB for the keys and values of a server; none = 1 on CPU, vLLM's choice on "
        "cuda",
    )
    startup_seconds: Rate = Field(default=600, description="until a server that starts is given up")
    request_seconds: Rate = Field(
        default=600, description="until a server that does not answer counts as hung"
    )
    args: list[str] = Field(default=[], description="further arguments of vllm serve")

    @field_validator("urls")
    @classmethod
    def _addresses(cls, urls: list[str]) -> list[str]:
        for url in urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"{url!r} is no address; write it as http://HOST:PORT")
        return [url.rstrip("/").removesuffix("/v1") for url in urls]

    @field_validator("args")
    @classmethod
    def _further(cls, args: list[str]) -> list[str]:
        for text in args:
            if text.partition("=")[0].replace("_", "-") in FIXED:
                raise ValueError(
                    f"{text!r} changes what the run itself decides and depends on; leave it out "
                    "(hardware.precision decides the data types)"
                )
        return args
