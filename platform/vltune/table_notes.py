"""What stands under a table because all rows of a run have it alike."""

from collections.abc import Sequence

from vltune.contract import RunRow
from vltune.ledger_records import SearchRecord
from vltune.parameters import plain_text


def notes_on_all(records: Sequence[SearchRecord], rows: Sequence[RunRow]) -> list[str]:
    """What all rows of some runs have alike, and a reader of their table has to know."""
    weights = {str(row.config["weights"]) for row in rows if "weights" in row.config}
    notes = ["No pretrained weights: every encoder started at random."] if weights == {"none"} else []
    for record in records:
        pins = {key: value for key, value in record.pins.items() if key != "seed"}  # the table tells of seeds
        fields = max((len(row.config) for row in rows if row.run == record.name), default=0)
        if pins and len(pins) < fields / 2:  # a run that repeats a record has all of it set
            whose = f" of {record.name}" if len(records) > 1 else ""
            notes.append(f"Set for all rows{whose}: {', '.join(f'{k}={plain_text(v)}' for k, v in pins.items())}.")
    return notes
