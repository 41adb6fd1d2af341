"""A folder of images as a source: nothing is known of them; what is weeded out is left out of a list."""

from collections.abc import Set
from pathlib import Path

from lookalike.labels.lists import images_to_label, read_names, write_names
from lookalike.review.cases import Case
from lookalike.review.journal import Decision

KEPT, WEEDED = "kept", "weeded"


class FolderSource:
    """The images below a folder. No file is deleted: the lists `kept` and `weeded` beside the journal name them."""

    def __init__(self, folder: Path) -> None:
        """Find the images.

        Raises:
            SetupError: there is none.
        """
        self.labels: list[str] = []
        self.name, self._lists = folder.name or str(folder.resolve()), folder / ".review"
        self.journal_file = self._lists / "review.jsonl"
        self.cases = [
            Case(found.name, found.path, "", "", 0.0, 0.0, "not scored", "")
            for found in images_to_label(folder, folder)
        ]

    def export(self, decisions: dict[str, Decision], touched: Set[str]) -> list[Path]:
        """Write the lists `kept` and `weeded` of file names relative to the folder."""
        weeded = {name for name, decision in decisions.items() if decision.action == "weed"}
        names = [case.name for case in self.cases]
        changed = []
        for title, listed in (
            (KEPT, [n for n in names if n not in weeded]),
            (WEEDED, [n for n in names if n in weeded]),
        ):
            file = self._lists / title
            if not file.exists() or [name for _, name in read_names(file)] != listed:
                write_names(file, listed)
                changed.append(file)
        return changed
