"""Coverage-guided fuzzing of all targets with `make fuzz`, or of one.

    python -m fuzz TARGET [options of libFuzzer]

It begins with the seeds, and what it finds beyond them grows in fuzz/corpus, which is not kept in
git. An input that breaks something becomes a seed, with a name that says what it broke.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["kamstrup_mqtt"]):
    from fuzz.seeds import SEEDS
    from fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    name = sys.argv.pop(1)
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    for seed, data in SEEDS[name].items():
        (folder / seed).write_bytes(data)
    options = [*sys.argv, f"-artifact_prefix={CORPUS}/{name}-", str(folder)]
    atheris.Setup(options, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
