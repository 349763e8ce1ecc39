"""Where an endpoint is and with which key: checked before any request.

The config holds the name of an environment variable, never a key, and no message here repeats a
value that could be one.
"""

from __future__ import annotations

import ipaddress
import os
import re
from urllib.parse import urlsplit

from pydantic import SecretStr

from genac.config.stages import EndpointConfig


def checked_url(cfg: EndpointConfig) -> str:
    """The address of the chat completions; ValueError where base_url or model will not do."""
    url = cfg.base_url.strip().rstrip("/").removesuffix("/chat/completions")
    if "@" in url.partition("//")[2].partition("/")[0] or ("@" in url and "//" not in url):
        raise ValueError(
            "base_url must not hold a user name: a key in it would be written into configs and "
            "logs; name the variable that holds the key in api_key_env"
        )
    if "?" in url or "#" in url:
        raise ValueError(
            "base_url must hold neither a query nor a fragment: a key in it would be written into "
            "configs and logs; name the variable that holds the key in api_key_env"
        )
    if problem := unusable(url):
        raise ValueError(
            f"base_url is {cfg.base_url!r}: {problem}; give the whole address, for example "
            "https://api.openai.com/v1 or http://localhost:8000/v1"
        )
    if not cfg.model:
        raise ValueError(f"the endpoint {url} needs the name of a model; set its key 'model'")
    return f"{url}/chat/completions"


def unusable(url: str) -> str:
    """Why nothing can be sent to an address; empty where it is a good one."""
    if not url.isprintable() or " " in url or "\\" in url:
        return "it holds a space, a backslash or a control character"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        return "its host or its port (1 to 65535) is malformed"
    if parts.scheme not in ("http", "https") or not host:
        return "it does not begin with http:// or https:// and a host"
    if port == 0:
        return "no server has port 0"
    if ":" not in host and not is_name(host):
        return "its host is no name that can be looked up"
    return ""


def is_name(host: str) -> bool:
    """Whether a host's name can be looked up: labels of 1 to 63 letters, digits, - and _."""
    try:
        ascii_name = host.encode("idna").decode("ascii")
    except UnicodeError:  # it also refuses labels that are empty or too long
        return False
    labels = ascii_name.removesuffix(".").split(".")
    return len(ascii_name) <= 253 and all(re.fullmatch(r"[A-Za-z0-9_-]+", x) for x in labels)


def key_of(cfg: EndpointConfig) -> SecretStr | None:
    """The key from the environment; None for a local server that was given none."""
    name = cfg.api_key_env
    if name == "none" or (not name and is_local(cfg.base_url)):
        return None
    if not name:
        raise ValueError(
            f"the endpoint {cfg.base_url} has no api_key_env; give the name of the environment "
            "variable that holds the key, or 'none' where no key is needed"
        )
    key = os.environ.get(name, "").strip()
    if not key:
        raise ValueError(
            f"api_key_env is {name!r}, but there is no such environment variable (or it is empty); "
            f"export {name}=..., or set api_key_env to none where no key is needed"
        )
    if not (key.isascii() and key.isprintable()):
        raise ValueError(
            f"the key in {name} holds characters that no header can carry; set it anew"
        )
    return SecretStr(key)


def is_local(url: str) -> bool:
    """This machine, a private address, or a name without a dot, as nodes of a cluster have."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".localhost", ".internal"))


def parse_endpoint(name: str) -> EndpointConfig:
    """The endpoint in 'openai:MODEL@URL'; the model's name may hold an @ of its own."""
    model, at, rest = name.removeprefix("openai:").partition("@http")
    if not at or not model:
        raise ValueError(
            "write a zero-shot critic as openai:MODEL@URL with the whole URL, for example "
            "openai:qwen@http://localhost:8000/v1, or give a YAML file with the keys of an endpoint"
        )
    return EndpointConfig(base_url=f"http{rest}", model=model)
