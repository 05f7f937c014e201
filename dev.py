"""Work on a clone with nothing but Python: builds what is needed into .venv once, then runs it.

    python3 dev.py generate "a red apple on grass"  draw pictures, or go on with videos
    python3 dev.py compare "a red apple on grass"   the same picture with every method, measured
    python3 dev.py download NAME                    fetch a public checkpoint
    python3 dev.py gpu --json gpu.json              is everything right on this GPU, and how fast; minutes
    python3 dev.py train scenes --work build        train an embedded model further (scenes or video); see training/README.md
    python3 dev.py bench --quick                    speed and memory on this machine; installs transformers, to compare with
    python3 dev.py test [pytest arguments]          style, types, dependencies, and the tests on all cores
    python3 dev.py test --oldest [pytest arguments] the tests with the oldest versions that are promised to work

COMMAND --help lists a command's options, once any command has been run; `train scenes --help`, once `train` has.

On Linux, PyPI's torch brings CUDA libraries of several gigabytes. Without an NVIDIA GPU, set
PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu before the first call to get the small CPU build.
"""

import hashlib
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CONSTRAINTS = ROOT / "tests/constraints.txt"
HELP = ("-h", "--help")

# Arguments of `pip install`, call by call; words with a slash or ending in .txt are files below ROOT.
RUN = [["torch", "-r", "requirements.txt"]]
BENCH = [*RUN, ["transformers; python_version >= '3.11'"]]
TRAIN = [*RUN, ["-r", "training/requirements.txt"]]
TEST = [[*RUN[0], "-r", "tests/requirements.txt"], ["--no-deps", "-r", "tests/requirements-nodeps.txt"]]
INSTALLS = {"run": RUN, "bench": BENCH, "train": TRAIN, "test": TEST}

# Most files of large packages are never imported; Python compiles and keeps those that are, unless it is told not to.
COMPILE = [] if sys.dont_write_bytecode else ["--no-compile"]

CHECKS = (["ruff", "check"], ["ruff", "format", "--check"])  # tests hold types and the contracts of dependencies
RECIPES = {"scenes": "training.build_scenes", "video": "training.build_video"}
# Tests use one thread each; an idle worker takes over some of another's.
WORKERS = ["-n", "auto", "--dist", "worksteal"]


class Environment:
    """A folder of packages below ROOT, and the versions that they are held to."""

    def __init__(self, folder, constraints):
        self.folder, self.constraints = ROOT / folder, constraints
        self.python = self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def oldest():
    """The environment of the lower bounds: of requirements.txt, and of torch in pyproject.toml."""
    bounds = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    bounds += re.findall(r'"(torch>=[^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    constraints = ROOT / "build/oldest.txt"
    constraints.parent.mkdir(exist_ok=True)
    pinned = [line.replace(">=", "==") for line in bounds if ">=" in line and not line.startswith("#")]
    constraints.write_text("\n".join(pinned) + "\n", encoding="utf-8")
    return Environment(".venv-oldest", constraints)


def fingerprint(environment, installs):
    """Changes whenever the installs would: with the files that they read and with the Python in use."""
    digest = hashlib.sha256(f"{sys.version} {installs}".encode())
    digest.update(environment.constraints.read_bytes())
    for name in (word for call in installs for word in call if word.endswith(".txt")):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def remembered(stamp):
    return stamp.read_text(encoding="utf-8") if stamp.exists() else None


def can_help(environment, command):
    """Whether what the command's own help imports is there; every installation holds what the others begin with."""
    enough = {"train": TRAIN} if command == "train" else INSTALLS
    return any(is_installed(environment, name, installs) for name, installs in enough.items())


def make(environment):
    """Create its folder, or again if an earlier attempt was cut short or another Python asks."""
    folder, stamp = environment.folder, environment.folder / "made-by-dev.txt"
    if environment.python.exists() and remembered(stamp) == sys.version:
        return
    print(f"Creating {folder} ...", flush=True)
    try:
        venv.create(folder, clear=True, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"{folder} cannot be created ({error}); on Debian and Ubuntu, install python3-venv first.")
    # Python brings an older one, which may take twice as long for all the rest. If there is no newer one, that one serves.
    pip(environment, "--quiet", "--upgrade", "pip")
    stamp.write_text(sys.version, encoding="utf-8")


def pip(environment, *arguments):
    """Exit code of `pip install` there."""
    command = [str(environment.python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    return subprocess.call([*command, *arguments], cwd=ROOT)


def is_installed(environment, name, installs):
    """Whether the environment is this Python's and holds what the files ask for."""
    made = environment.python.exists() and remembered(environment.folder / "made-by-dev.txt") == sys.version
    return made and remembered(environment.folder / f"installed-{name}.txt") == fingerprint(environment, installs)


def install(environment, name, installs):
    """Install once; a later call with the same files starts at once."""
    if is_installed(environment, name, installs):
        return
    make(environment)
    stamp, wanted = environment.folder / f"installed-{name}.txt", fingerprint(environment, installs)
    print(
        f"Installing what is needed into {environment.folder.name}; the first time takes a few minutes ...", flush=True
    )
    for call in installs:
        if pip(environment, *COMPILE, "-c", str(environment.constraints), *call):
            sys.exit("pip could not install what is needed; its message is above.")
    stamp.write_text(wanted, encoding="utf-8")


def check(environment):
    """Style; the first check that fails ends the command."""
    for arguments in CHECKS:
        print("$", *arguments, flush=True)
        if code := subprocess.call([str(environment.python), "-m", *arguments], cwd=ROOT):
            sys.exit(code)


def call(command):
    """Exit code of a command that ends itself on Ctrl-C, which the console gives to both; subprocess.call would kill it."""
    child = subprocess.Popen(command)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            pass


def run(environment, arguments):
    """Go on as the command, in the caller's folder, with the clone on the module path; the exit code is the command's."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    command = [str(environment.python), *arguments]
    if os.name == "nt":  # exec would detach from the console there
        sys.exit(call(command))
    os.execv(command[0], command)


def train(environment, model, *arguments):
    """Run the recipe of an embedded model, which goes on where it stopped."""
    if model not in RECIPES:
        sys.exit(f"There is no recipe for {model!r}; there are {' and '.join(RECIPES)}.")
    install(environment, "train", TRAIN)
    run(environment, ["-m", RECIPES[model], *arguments])


def main():
    if sys.version_info < (3, 10):
        sys.exit(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}; call this file with a newer one.")
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    command, rest = sys.argv[1], sys.argv[2:]
    environment = Environment(".venv", CONSTRAINTS)
    wants_help = command in HELP or (command != "test" and bool({*HELP} & {*rest}))
    of_no_recipe = command == "train" and rest[:1] and rest[0] in HELP  # each has help of its own
    if wants_help and (command in HELP or of_no_recipe or not can_help(environment, command)):
        print(__doc__)  # help installs nothing
        return
    try:
        if command == "test":
            if rest[:1] == ["--oldest"]:
                environment, rest = oldest(), rest[1:]
            install(environment, "test", TEST)
            os.chdir(ROOT)
            if environment.constraints == CONSTRAINTS:  # style and types are those of the newest versions
                check(environment)
            else:
                rest = ["--ignore=tests/test_types.py", *rest]
            run(environment, ["-m", "pytest", *WORKERS, *rest])
        if command == "train":
            train(environment, *(rest or [""]))
        if not wants_help:
            install(environment, *(("bench", BENCH) if command in ("bench", "gpu") else ("run", RUN)))
        run(environment, ["-m", "mcsjd_core", command, *rest])
    except KeyboardInterrupt:
        sys.exit("Interrupted; the next call continues from here.")


if __name__ == "__main__":
    main()
