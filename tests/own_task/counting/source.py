"""Images called COUNT_NUMBER.png, in train/ and val/."""

from pathlib import Path

from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.sources.base import Listing, Rows, Source

MOST = 4


class DotImages(Source):
    """Each image's number of dots stands in its name, and becomes its label."""

    def __init__(self, config: PrepareConfig) -> None:
        self.uri = config.source

    def listing(self) -> Listing:
        root = Path(self.uri)
        splits = {}
        for split in ("train", "val"):
            rows = Rows()
            for path in sorted((root / split).glob("*.png")):
                name = str(path.relative_to(root))
                rows.add(name, str(path.absolute()), label=int(path.name.split("_")[0]))
            splits[split] = rows.table()
        return Listing(
            kind="classification",
            classes=tuple(map(str, range(MOST + 1))),
            splits=splits,
            origins={split: split for split in splits},
        )
