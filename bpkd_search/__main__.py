"""`python -m bpkd_search`, the same as `bpkd-search`."""

from bpkd_search.cli import main

main()
