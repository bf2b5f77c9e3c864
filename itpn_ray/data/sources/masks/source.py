"""Images with a mask each: the layouts of ADE20K, Cityscapes, Pascal VOC, and plain folders.

| format | images | masks | values |
|---|---|---|---|
| ade20k | ``images/SPLIT/`` | ``annotations/SPLIT/*.png`` | classes from 1, 0 ignored |
| masks | ``images/[SPLIT/]`` | ``masks/[SPLIT/]*.png`` | classes from 0, 255 ignored; or colours |
| voc-masks | ``JPEGImages/`` | ``SegmentationClass/*.png`` | palette entries, 255 ignored |
| cityscapes | ``leftImg8bit/SPLIT/`` | ``gtFine/SPLIT/`` | label ids, or train ids |
| ade20k-full | ``images/ADE/SPLIT/**`` | ``*_seg.png`` beside them | see `ade20k_full` |
| coco-panoptic | ``[images/]train2017/`` | see `panoptic` | segments of each image |

A mask has its image's path and name, but for the suffix. The lists in ``ImageSets/Segmentation``
tell the splits of voc-masks. Where there are more than 255 classes from 0, 65,535 is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from posixpath import basename, relpath, splitext

import pyarrow as pa
from pyarrow.fs import FileSystem, FileType

from itpn_ray.data.annotations.class_masks import MaskValues
from itpn_ray.data.sources.base import LISTING_SCHEMA, Listing, Rows, Source, why_not
from itpn_ray.data.sources.lists import read_classes
from itpn_ray.data.sources.masks import classes as mask_classes
from itpn_ray.data.sources.masks.ade20k_full import IMAGES, full_values, object_names
from itpn_ray.data.sources.splits import SPLITS, SplitNames
from itpn_ray.data.sources.text import read_lines
from itpn_ray.data.sources.walk import Entry, children, files_below
from itpn_ray.errors import DataError
from itpn_ray.formatting import show_names
from itpn_ray.storage import filesystem, join

SCHEMA = pa.schema(
    [
        *LISTING_SCHEMA,
        ("mask_path", pa.string()),  # shown to people: relative to the source
        ("mask_file", pa.string()),  # path of the file in the source's filesystem
        (
            "mask_segments",
            pa.string(),
        ),  # the mask's own values, see `segment_text`
    ]
)
_MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
_LISTS = "ImageSets/Segmentation"


@dataclass(frozen=True, kw_only=True)
class MaskFolders:
    """Where the images and masks of a split lie, relative to the source."""

    images: str
    masks: str
    image_end: str = ""
    """End of an image's name, before its suffix, that its mask's name does not have."""
    mask_end: str = ""
    """Likewise of a mask; other files in its folder are no masks."""
    image_suffix: str = ""
    """Of images, where other files lie among them."""
    names: frozenset[str] | None = None
    """The images that belong to the split, without suffix; None: all."""


@dataclass(frozen=True)
class MaskSource(Source):
    """A data set of images with masks.

    Attributes:
        uri: its folder.
        form: one of the formats above.
        classes: URI of a list of the classes in the order of their values; empty: the data set's.
        palette: URI of a list of colours, see `mask_classes.read_palette`; empty: numbers.
        splits: names of the splits.
    """

    uri: str
    form: str
    classes: str = ""
    palette: str = ""
    splits: SplitNames = field(default_factory=SplitNames)

    def listing(self) -> Listing:
        """See `Source.listing`; files are sorted by path."""
        fs, root = filesystem(self.uri)
        folders = _FOLDERS[self.form](self, fs, root)
        classes, values = self._classes(fs, root, folders)
        mask_classes.check_count(classes, self.classes or self.palette or self.uri)
        skipped: list[tuple[str, str]] = []
        splits = {split: _pairs(fs, root, each, skipped) for split, each in folders.items()}
        splits = {split: rows for split, rows in splits.items() if rows.num_rows}
        if not splits:
            seen = show_names([f"{each.images} and {each.masks}" for each in folders.values()])
            raise DataError(
                "prepare.source",
                self.uri,
                f"holds no image with a mask in {seen or 'the folders of ' + self.form}",
                "Give the folder of the whole data set, or name its --format",
            )
        return Listing(
            kind="segmentation",
            classes=classes,
            splits=splits,
            origins={split: folders[split].images for split in splits},
            skipped=tuple(skipped),
            masks=values,
        )

    def _classes(
        self, fs: FileSystem, root: str, folders: Mapping[str, MaskFolders]
    ) -> tuple[tuple[str, ...], MaskValues]:
        """The names, and what the values of masks mean."""
        if self.palette:
            return mask_classes.read_palette(self.palette)
        if self.form == "cityscapes":
            # `_cityscapes` has chosen the masks by their names; the values follow it.
            train_ids = any("Train" in each.mask_end for each in folders.values())
            values = mask_classes.cityscapes(train_ids=train_ids)
            return tuple(mask_classes.CITYSCAPES), values
        if self.form == "ade20k-full":
            chosen = self._chosen() if self.classes else ()
            return full_values(object_names(fs, root), chosen, self.classes or self.uri)
        names = self._names(fs, root)
        first = 1 if self.form == "ade20k" else 0
        ignored = (0,) if first else (mask_classes.void_of(len(names)),)
        return names, mask_classes.numbered(len(names), first=first, ignored=ignored)

    def _chosen(self) -> tuple[str, ...]:
        """Of a list, or of the table of the challenge's 150 classes."""
        head = next(iter(read_lines(self.classes)), "")
        read = mask_classes.read_object_info if "\t" in head else read_classes
        return read(self.classes)

    def _names(self, fs: FileSystem, root: str) -> tuple[str, ...]:
        if self.classes:
            return read_classes(self.classes)
        beside = [entry.name for entry in children(fs, root) if entry.size is not None]
        tables = [name for name in beside if name.lower().startswith("objectinfo")]
        tables = [name for name in tables if name.endswith(".txt")]
        if self.form == "ade20k" and tables:
            return mask_classes.read_object_info(join(self.uri, tables[0]))
        if self.form == "voc-masks":
            return mask_classes.VOC
        if "classes.txt" in beside:
            return read_classes(join(self.uri, "classes.txt"))
        raise DataError(
            "prepare.classes",
            self.uri,
            "holds no list of its classes (classes.txt, or ADE20K's objectInfo150.txt)",
            "Give one to `itpn-ray prepare` with --classes FILE, or colours with --palette FILE",
        )


def _pairs(
    fs: FileSystem, root: str, folders: MaskFolders, skipped: list[tuple[str, str]]
) -> pa.Table:
    """The images of a split that have masks; what has no partner is skipped."""
    masks = {
        key: entry
        for entry in files_below(fs, f"{root}/{folders.masks}")
        if (key := _key(entry, f"{root}/{folders.masks}", folders.mask_end, _MASK_SUFFIXES))
    }
    rows = Rows(SCHEMA)
    for entry in files_below(fs, f"{root}/{folders.images}"):
        if not entry.name.endswith(folders.image_suffix):
            continue
        path = relpath(entry.path, root)
        key = _key(entry, f"{root}/{folders.images}", folders.image_end)
        if folders.names is not None and key not in folders.names:
            continue
        problem = why_not(entry)
        # Taken out: what stays at the end is the mask of no image.
        mask = None if problem else masks.pop(key, None)
        if problem or mask is None or mask.problem:
            missing = (
                f"has no mask in {folders.masks}" if mask is None else f"its mask {mask.problem}"
            )
            skipped.append((path, problem or missing))
            continue
        where = relpath(mask.path, root)
        rows.add(
            path,
            entry.path,
            size=entry.size or 0,
            mask_path=where,
            mask_file=mask.path,
            mask_segments="",
        )
    # With a list of names, masks of other splits are left over rightly.
    if folders.names is None:
        skipped += [
            (relpath(mask.path, root), "is the mask of no image") for mask in masks.values()
        ]
    return rows.table()


def _key(entry: Entry, folder: str, end: str, suffixes: Sequence[str] = ()) -> str:
    """What an image and its mask have in common of their paths; empty for what is no mask."""
    stem, suffix = splitext(relpath(entry.path, folder))
    if not stem.endswith(end) or (suffixes and suffix.lower() not in suffixes):
        return ""
    return stem.removesuffix(end)


def _by_split(source: MaskSource, fs: FileSystem, root: str, images: str) -> dict[str, str]:
    """Split -> its folder in the folder of images; train alone where there are no such folders."""
    names = [entry.name for entry in children(fs, f"{root}/{images}") if entry.is_folder]
    source.splits.check_used(names, source.uri)
    named = [(source.splits.of_name(name), name) for name in names]
    found = {split: name for split, name in named if split}
    if len(found) < len([name for split, name in named if split]):
        cause = f"{images} has two folders of one split: {show_names(names)}"
        raise DataError("prepare.source", source.uri, cause, "Say which with --splits train=NAME")
    return {split: found[split] for split in SPLITS if split in found} or {"train": ""}


def _beside(images: str, masks: str, source: MaskSource, fs: FileSystem, root: str) -> _Folders:
    """Folders of the splits below one of images and one of masks."""
    found = _by_split(source, fs, root, images).items()
    return {
        split: MaskFolders(
            images=f"{images}/{name}".rstrip("/"), masks=f"{masks}/{name}".rstrip("/")
        )
        for split, name in found
    }


def _ade20k_full(source: MaskSource, fs: FileSystem, root: str) -> _Folders:
    """Images and masks in one folder of scenes a split."""
    return {
        split: MaskFolders(
            images=f"{IMAGES}/{name}",
            masks=f"{IMAGES}/{name}",
            mask_end="_seg",
            image_suffix=".jpg",
        )
        for split, name in _by_split(source, fs, root, IMAGES).items()
    }


def _cityscapes(source: MaskSource, fs: FileSystem, root: str) -> _Folders:
    """The label ids, or the train ids where there are no others."""
    ends = ("_gtFine_labelIds", "_gtFine_labelTrainIds")
    names = [splitext(basename(entry.path))[0] for entry in files_below(fs, f"{root}/gtFine")]
    end = next((end for end in ends if any(name.endswith(end) for name in names)), ends[0])
    return {
        split: MaskFolders(
            images=f"leftImg8bit/{name}",
            masks=f"gtFine/{name}",
            image_end="_leftImg8bit",
            mask_end=end,
        )
        for split, name in _by_split(source, fs, root, "leftImg8bit").items()
        if split != "test"  # its masks ignore every pixel
    }


def _voc(source: MaskSource, fs: FileSystem, root: str) -> _Folders:
    """A list of names a split, or several; trainval repeats the others."""
    names = [entry.name for entry in files_below(fs, f"{root}/{_LISTS}")]
    stems = {name: splitext(name)[0] for name in names}
    source.splits.check_used(stems.values(), source.uri)
    lists: dict[str, frozenset[str]] = {}
    for name, stem in stems.items():
        split = source.splits.of_name(stem)
        if split and (source.splits.given or name != "trainval.txt"):
            listed = frozenset(read_lines(join(source.uri, _LISTS, name)))
            lists[split] = lists.get(split, frozenset()) | listed
    plain = MaskFolders(images="JPEGImages", masks="SegmentationClass")
    return {
        split: MaskFolders(images=plain.images, masks=plain.masks, names=lists[split])
        for split in SPLITS
        if split in lists
    } or {"train": plain}


_Folders = dict[str, MaskFolders]
_FOLDERS = {
    "ade20k": lambda source, fs, root: _beside("images", "annotations", source, fs, root),
    "masks": lambda source, fs, root: _beside("images", "masks", source, fs, root),
    "voc-masks": _voc,
    "cityscapes": _cityscapes,
    "ade20k-full": _ade20k_full,
}
_OBJECTS = {"Annotations", "annotations"}
_SIGNS = {
    "cityscapes": {"leftImg8bit", "gtFine"},
    "voc-masks": {"JPEGImages", "SegmentationClass"},
    "masks": {"images", "masks"},
}


def mask_format(fs: FileSystem, root: str) -> str:
    """The format of a folder of images with masks, by the folders in it; empty if it is none.

    Pascal VOC's folder and others have objects as well as masks: they are taken for objects.
    """
    names = {entry.name for entry in children(fs, root) if entry.is_folder}
    if names == {"images"} and fs.get_file_info(f"{root}/{IMAGES}").type == FileType.Directory:
        return "ade20k-full"
    found = next((form for form, signs in _SIGNS.items() if signs <= names), "")
    if found and names & _OBJECTS:
        return ""
    if found or not {"images", "annotations"} <= names:
        return found
    listed = [entry.name.lower() for entry in files_below(fs, f"{root}/annotations")]
    # COCO keeps JSON files in annotations/, perhaps with masks beside them.
    is_ade = any(name.endswith(".png") for name in listed)
    return "ade20k" if is_ade and not any(name.endswith(".json") for name in listed) else ""
