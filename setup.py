"""Packages only, the rest is in pyproject.toml: `search_spaces/` is installed inside the package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["bpkd_search*"]), "bpkd_search.search_spaces"],
    package_dir={"bpkd_search.search_spaces": "search_spaces"},
)
