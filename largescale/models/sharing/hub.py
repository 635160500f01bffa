"""Model folders on the Hugging Face hub, or on a server with its interface (`HF_ENDPOINT`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from largescale.models.sharing.folder import ANCHORS, CARD, CONFIG, NETWORK, WHITENING, read_config
from largescale.settings import UserError

PREFIX = "hub:"
FILES = [CONFIG, NETWORK, WHITENING, ANCHORS, CARD]


def fetch(name: str) -> Path:
    """The folder of `USER/NAME` or `USER/NAME@REVISION`, in the hub's cache on this machine.

    Raises:
        UserError: no such model, no access, or no network and no copy in the cache.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    with _explained(f"hub:{repository} cannot be fetched"):
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=FILES))


def push(folder: Path, name: str, private: bool = True) -> str:
    """Upload a model folder as `USER/NAME`, which is made if it is not there; the address of the commit.

    Raises:
        UserError: no model folder, no access (`hf auth login`), or no network.
    """
    from huggingface_hub import HfApi

    read_config(folder)
    api, repository = HfApi(), name.removeprefix(PREFIX)
    with _explained(f"{folder} cannot be pushed to hub:{repository}"):
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=FILES))


@contextmanager
def _explained(what: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except LocalEntryNotFoundError:
        raise UserError(
            f"{what}: the hub cannot be reached and there is no copy on this machine; give the path of a folder"
        ) from None
    except HFValidationError as error:
        raise UserError(f"{what}: a model is named USER/NAME ({error})") from None
    except HfHubHTTPError as error:
        raise UserError(f"{what}: {_told(error)}; is the name right, and are you logged in?") from None
    except Exception as error:
        # of whichever HTTP library this version of huggingface_hub is built on
        if not isinstance(error, OSError) and not type(error).__module__.startswith(("httpx", "requests")):
            raise
        raise UserError(f"{what}: the hub cannot be reached ({type(error).__name__}: {error})") from None


def _told(error: Exception) -> str:
    """What the hub says, without the advice that follows it."""
    return getattr(error, "server_message", None) or str(error).strip().splitlines()[0]
