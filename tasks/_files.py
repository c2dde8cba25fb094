"""Which files each task reads, who publishes them where, and how large the splits are.

Nothing here is fetched unless `vl-lst data download` is called.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "CAPTION_FILES",
    "CAPTION_SIZES",
    "GQA_FILES",
    "GQA_SIZES",
    "NLVR2_FILES",
    "NLVR2_SIZES",
    "VQA_FILES",
    "VQA_SIZES",
    "DataFile",
    "Source",
    "SplitSize",
]


@dataclass(frozen=True, slots=True)
class Source:
    """Something to download.

    Args:
        url: Its official address.
        sha256: Of its content, in hexadecimal digits, where the publisher says it.
    """

    url: str
    sha256: str | None = None

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """A file below the data root.

    Args:
        path: Where it lies. A path that ends with "/" is a folder whose JSON files together are
            what one file could be.
        splits: The splits that read it.
        source: The file itself, or a zip archive with a file, or folder, of its name; `None` where
            it has no public address.
        stand_ins: Files any of which is read where it is absent.
        optional: What it is good for, if the splits can be loaded without it.
        made_of: The paths of what `vl-lst data prepare` needs to make it; empty where it does not.
    """

    path: str
    splits: tuple[str, ...]
    source: Source | None = None
    stand_ins: tuple[str, ...] = ()
    optional: str | None = None
    made_of: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """Where to get it, for people."""
        if self.source is not None:
            return self.source.url
        return "made by `vl-lst data prepare`" if self.made_of else "no public address"

    def found(self, data_root: Path) -> Path | None:
        """Return the path of the file or of what stands in for it, `None` where there is none."""
        for name in (self.path, *self.stand_ins):
            path = data_root / name
            if any(path.glob("*.json")) if name.endswith("/") else path.exists():
                return path
        return None


class SplitSize(NamedTuple):
    """The published size of a split; `images` is `None` where nobody says it."""

    examples: int
    images: int | None = None


VQA_HOST = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa/"
LXMERT_HOST = "https://nlp.cs.unc.edu/data/lxmert_data/"
LXMERT_LISTS = "https://raw.githubusercontent.com/airsplay/lxmert/master/data/"
COCO_HOST = "http://images.cocodataset.org/annotations/"
KARPATHY = Source("https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip")

VQA_TRAIN_ANNOTATIONS = "vqa/v2_mscoco_train2014_annotations.json"
VQA_VAL_ANNOTATIONS = "vqa/v2_mscoco_val2014_annotations.json"
KARPATHY_SPLITS = ("karpathy_train", "karpathy_val", "karpathy_test")
KARPATHY_FILE = "coco/dataset_coco.json"
MADE_INTO_KARPATHY = (
    "vqa/v2_OpenEnded_mscoco_train2014_questions.json",
    "vqa/v2_OpenEnded_mscoco_val2014_questions.json",
    VQA_TRAIN_ANNOTATIONS,
    VQA_VAL_ANNOTATIONS,
    KARPATHY_FILE,
)
LXMERT_VQA_SPLITS = ("nominival", "minival")
VQA_FILES = (
    *(
        DataFile(
            path=f"vqa/v2_OpenEnded_mscoco_{split}_questions.json",
            splits=(split,),
            source=Source(f"{VQA_HOST}v2_Questions_{part}_mscoco.zip"),
        )
        for split, part in (
            ("train2014", "Train"),
            ("val2014", "Val"),
            ("test2015", "Test"),
            ("test-dev2015", "Test"),
        )
    ),
    DataFile(
        path=VQA_TRAIN_ANNOTATIONS,
        splits=("train2014",),
        source=Source(f"{VQA_HOST}v2_Annotations_Train_mscoco.zip"),
    ),
    DataFile(
        path=VQA_VAL_ANNOTATIONS,
        splits=("val2014", *LXMERT_VQA_SPLITS),
        source=Source(f"{VQA_HOST}v2_Annotations_Val_mscoco.zip"),
    ),
    *(
        DataFile(path=f"vqa/{split}.json", splits=(split,), made_of=MADE_INTO_KARPATHY)
        for split in KARPATHY_SPLITS
    ),
    *(
        DataFile(
            path=f"vqa/{split}.json",
            splits=(split,),
            source=Source(f"{LXMERT_HOST}vqa/{split}.json"),
        )
        for split in LXMERT_VQA_SPLITS
    ),
    DataFile(
        path=KARPATHY_FILE,
        splits=KARPATHY_SPLITS,
        source=KARPATHY,
        optional="to make the Karpathy splits",
    ),
    DataFile(
        path="vqa/trainval_label2ans.json",
        splits=("train2014", "karpathy_train", "nominival"),
        source=Source(f"{LXMERT_LISTS}vqa/trainval_label2ans.json"),
        optional="the usual 3,129 answers",
    ),
)
VQA_SIZES = {
    "train2014": SplitSize(443_757, 82_783),
    "val2014": SplitSize(214_354, 40_504),
    "test2015": SplitSize(447_793, 81_434),
    "test-dev2015": SplitSize(107_394, 36_807),
    "karpathy_train": SplitSize(605_102),
    "karpathy_val": SplitSize(26_729),
    "karpathy_test": SplitSize(26_280),
    "nominival": SplitSize(188_360, 35_504),
    "minival": SplitSize(25_994, 5_000),
}

GQA_QUESTIONS = Source("https://downloads.cs.stanford.edu/nlp/data/gqa/questions1.2.zip")
GQA_EVALUATION = Source("https://downloads.cs.stanford.edu/nlp/data/gqa/eval.zip")
GQA_STAND_INS = {
    "train": ("gqa/train.json",),
    "val": ("gqa/valid.json",),
    "testdev": ("gqa/testdev.json",),
}
GQA_FILES = (
    *(
        DataFile(
            path=f"gqa/{tier}_balanced_questions.json",
            splits=(tier,),
            source=GQA_QUESTIONS,
            stand_ins=GQA_STAND_INS.get(tier, ()),
        )
        for tier in ("train", "val", "testdev", "test", "challenge")
    ),
    DataFile(
        path="gqa/train_all_questions/",
        splits=("train_all",),
        source=GQA_QUESTIONS,
        stand_ins=("gqa/train_all_questions.json",),
    ),
    *(
        DataFile(
            path=f"gqa/{tier}_all_questions.json",
            splits=(f"{tier}_all",),
            source=GQA_QUESTIONS,
            stand_ins=(f"gqa/{tier}_all_questions/",),
        )
        for tier in ("val", "testdev", "test", "challenge")
    ),
    DataFile(
        path="gqa/submission_all_questions.json",
        splits=("submission_all",),
        source=GQA_QUESTIONS,
        stand_ins=("gqa/submit.json",),
    ),
    *(
        DataFile(
            path=f"gqa/{tier}_choices.json",
            splits=(tier, f"{tier}_all"),
            source=GQA_EVALUATION,
            stand_ins=(f"gqa/{tier}_choices/",),
            optional="validity and plausibility",
        )
        for tier in ("train", "val")
    ),
    DataFile(
        path="gqa/trainval_label2ans.json",
        splits=("train", "train_all"),
        source=Source(f"{LXMERT_LISTS}gqa/trainval_label2ans.json"),
        optional="the usual 1,842 answers",
    ),
)
GQA_SIZES = {
    "train": SplitSize(943_000, 72_140),
    "val": SplitSize(132_062, 10_234),
    "testdev": SplitSize(12_578, 398),
    "test": SplitSize(95_336, 2_987),
    "challenge": SplitSize(50_726, 1_590),
    "train_all": SplitSize(14_305_356),
    "val_all": SplitSize(2_011_853),
    "testdev_all": SplitSize(172_174, 398),
    "test_all": SplitSize(1_340_048),
    "challenge_all": SplitSize(713_449, 1_590),
    "submission_all": SplitSize(4_237_524),
}

NLVR2_HOST = "https://raw.githubusercontent.com/lil-lab/nlvr/master/nlvr2/data/"
NLVR2_STAND_INS = {"dev": ("nlvr2/valid.json",), "test1": ("nlvr2/test.json",)}
NLVR2_FILES = (
    *(
        DataFile(
            path=f"nlvr2/{split}.json",
            splits=(split,),
            source=Source(f"{NLVR2_HOST}{split}.json"),
            stand_ins=NLVR2_STAND_INS.get(split, ()),
        )
        for split in ("train", "dev", "test1", "test2")
    ),
    *(
        DataFile(
            path=f"nlvr2/{subset}/{subset}_{split}.json",
            splits=(split,),
            source=Source(f"{NLVR2_HOST}{subset}/{subset}_{split}.json"),
            stand_ins=(f"nlvr2/{subset}_{split}.json",),
            optional=f"scores of the {subset} subset",
        )
        for split in ("dev", "test1", "test2")
        for subset in ("balanced", "unbalanced")
    ),
)
# Two images of each pair.
NLVR2_SIZES = {
    "train": SplitSize(86_373),
    "dev": SplitSize(6_982, 2 * 4_051),
    "test1": SplitSize(6_967, 2 * 4_041),
    "test2": SplitSize(6_970, 2 * 4_074),
}

CAPTION_FILES = (
    *(
        DataFile(
            path=f"coco/annotations/captions_{split}.json",
            splits=(split,),
            source=Source(f"{COCO_HOST}annotations_trainval2014.zip"),
        )
        for split in ("train2014", "val2014")
    ),
    *(
        DataFile(
            path=f"coco/annotations/image_info_{split}.json",
            splits=(split,),
            source=Source(f"{COCO_HOST}image_info_{split}.zip"),
        )
        for split in ("test2014", "test2015")
    ),
    DataFile(path=KARPATHY_FILE, splits=KARPATHY_SPLITS, source=KARPATHY),
)
# Examples of training splits are captions, of the others images.
CAPTION_SIZES = {
    "train2014": SplitSize(414_113, 82_783),
    "val2014": SplitSize(40_504, 40_504),
    "test2014": SplitSize(40_775, 40_775),
    "test2015": SplitSize(81_434, 81_434),
    "karpathy_train": SplitSize(566_747, 113_287),
    "karpathy_val": SplitSize(5_000, 5_000),
    "karpathy_test": SplitSize(5_000, 5_000),
}
