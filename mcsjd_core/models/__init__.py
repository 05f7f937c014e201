"""The model families. A new one is a file in this folder and a row in `FAMILIES`."""

from . import chameleon, cosmos, emu3, janus, llamagen

# Each module offers detect(path) -> bool and load(path, dtype, device, operations) -> Family, and companions(path) -> list of
# paths if it reads more than what lies at `path`.
FAMILIES = {
    "chameleon": chameleon,
    "janus": janus,
    "llamagen": llamagen,
    "emu3": emu3,
    "cosmos": cosmos,
}
