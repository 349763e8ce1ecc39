"""genac push RUN|FOLDER REPO_ID: a run's actor and critic, or one model folder, onto the hub.

A folder goes to REPO_ID itself; of a run, actor and critic go to REPO_ID-actor and REPO_ID-critic,
or, with --only, the one to REPO_ID. Cards that genac wrote and nobody edited are brought up to date
first, missing ones written. The endpoint is huggingface_hub's own (HF_ENDPOINT, HF_TOKEN).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from genac.commands import parsers
from genac.critics.saved import critic_card
from genac.hub.model_cards import CARD, run_of, write_cards, write_critic_card
from genac.runs.manifest import POINTER, require_saved
from genac.runs.store import Run

ROLES = ("actor", "critic")


def push(arguments: Sequence[str]) -> str:
    """The command; returns what was (or, with --dry-run, would be) uploaded."""
    args = parsers.push().parse_args(list(arguments))
    check_name(args.repo_id)
    source = Path(args.source)
    places = destinations(source, args.repo_id, args.only)
    for folder, _ in places:
        require_saved(folder)
    lines = [] if args.dry_run else refresh(source)
    for folder, repo in places:
        files = listed(folder)
        size = sum((folder / f).stat().st_size for f in files)
        if args.dry_run:
            lines.append(f"{repo}: {len(files)} files, {size:,} bytes, nothing uploaded")
        else:
            lines.append(f"{upload(folder, files, repo, args.private)}: {size:,} bytes")
        lines += [f"  {(folder / f).stat().st_size:>12,}  {f}" for f in files]
    return "\n".join(lines)


def check_name(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no repository name: {error}") from error


def destinations(source: Path, repo_id: str, only: str | None) -> list[tuple[Path, str]]:
    """(model folder, repository) of everything that is to be uploaded."""
    if is_run(source):
        results = [source / role for role in ROLES if only in (None, role)]
        results = [folder for folder in results if folder.is_dir()]
        if not results:
            raise ValueError(f"{source} holds no {only}; leave --only out or name another run")
        for folder in results:
            if (folder / POINTER).exists():
                raise ValueError(
                    f"{folder} holds no weights: they are at a Tinker service, says its {POINTER}; "
                    "export them there"
                )
        return [(f, repo_id if only else f"{repo_id}-{f.name}") for f in results]
    if not (source / "config.json").exists() or not list(source.glob("*.safetensors")):
        raise ValueError(
            f"{source} is neither a finished run nor a model folder (config.json, *.safetensors)"
        )
    if only:
        raise ValueError(f"--only {only} chooses between the models of a run, and {source} is one")
    return [(source, repo_id)]


def refresh(source: Path) -> list[str]:
    """Writes the cards of a run, or of the run that a model folder is of; what was kept and why."""
    if is_run(source):
        return write_cards(source)
    if run := run_of(source):
        return write_cards(run)
    return write_critic_card(source) if critic_card(source) else []


def is_run(source: Path) -> bool:
    return Run.exists(source) and any((source / role).is_dir() for role in ROLES)


def listed(folder: Path) -> list[str]:
    """What is uploaded: every file that is not hidden, the card first."""
    files = [f for f in folder.rglob("*") if f.is_file()]
    names = [f.relative_to(folder) for f in files]
    shown = sorted(str(n) for n in names if not any(part.startswith(".") for part in n.parts))
    return sorted(shown, key=lambda name: name != CARD)


def upload(folder: Path, files: Sequence[str], repo_id: str, private: bool) -> str:
    """Creates the repository where it is missing and uploads in one commit; returns its address.

    ValueError that says what to do where token, rights or network are missing.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # pyright: ignore[reportPrivateImportUsage]
    from huggingface_hub.utils import get_token

    api = HfApi()
    if get_token() is None:
        raise ValueError(
            "uploading needs a token of the hub with write access; set HF_TOKEN or run "
            "'hf auth login'"
        )
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=list(files),
            commit_message="Model of genac",
        )
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no"
        remedy = (
            "check that HF_TOKEN is valid and may write there"
            if status in (401, 403, 404)
            else "try again later"
        )
        raise ValueError(f"the hub refused {repo_id} (status {status}); {remedy}") from error
    # OSError: a file or socket; HTTPError: of whichever HTTP client the hub's library uses.
    except (OSError, HTTPError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{api.endpoint} could not be reached ({reason:.200}); nothing is lost, push again "
            "when the network is back"
        ) from error
    return f"{api.endpoint}/{repo_id}"
