"""The command line: each command calls one function of the library, imported when it runs."""

from __future__ import annotations

import sys

from bpkd_search.cli.app import app
from bpkd_search.errors import UserError

# Help lists commands in the order of these imports.
from bpkd_search.cli import search  # isort: skip
from bpkd_search.cli import doctor  # isort: skip
from bpkd_search.cli import steering  # isort: skip
from bpkd_search.cli import results  # isort: skip
from bpkd_search.cli import memory  # isort: skip
from bpkd_search.cli import students  # isort: skip
from bpkd_search.cli import data  # isort: skip
from bpkd_search.cli import spaces  # isort: skip
from bpkd_search.cli import networks  # isort: skip

__all__ = ["app", "data", "doctor", "main", "memory", "networks", "results", "search", "spaces", "steering", "students"]


def main() -> None:
    """Run the command line; errors that the user can fix are printed without a traceback, with their exit code.

    Among them are those of the operating system, such as a file that cannot be written.
    """
    try:
        app(standalone_mode=True)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        raise SystemExit(e.exit_code) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(141) from None
    except OSError as e:
        cause = e.strerror or str(e) or type(e).__name__
        print(f"error: {cause if e.filename is None else f'{e.filename}: {cause}'}", file=sys.stderr)
        raise SystemExit(UserError.exit_code) from None
