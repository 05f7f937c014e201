"""Python started with this folder on its path sees torch and what requirements.txt brings, and no other package.

README's examples run so: an environment that holds only what README installs, without installing it anew.
"""

import importlib.abc
import importlib.metadata as metadata
import os
import re
import sys
from importlib.machinery import PathFinder


def distributions_of(names):
    """Canonical names of distributions and of all that they require, as far as they are installed."""
    found, waiting = set(), list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        waiting += [re.match(r"[\w.-]+", line)[0] for line in required if "extra ==" not in line]
    return found


class Shown(importlib.abc.MetaPathFinder):
    """Finds what Python's own finder of files finds, except modules that belong to other packages: as if they were not there."""

    def __init__(self, allowed):
        owners = metadata.packages_distributions().items()
        known = {name: {re.sub(r"[-_.]+", "-", each).lower() for each in names} for name, names in owners}
        self.hidden = {name for name, names in known.items() if not names & allowed}

    def find_spec(self, name, path=None, target=None):
        return None if name in self.hidden else PathFinder.find_spec(name, path, target)


with open(os.environ["README_REQUIREMENTS"], encoding="utf-8") as file:
    lines = [line.split("#")[0].strip() for line in file]
names = [re.match(r"[\w.-]+", line)[0] for line in lines if line]
sys.meta_path[sys.meta_path.index(PathFinder)] = Shown(distributions_of(["torch", *names]))
