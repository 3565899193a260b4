"""Data sets of whole pictures: with classes, with captions, and with instances."""

from distill.catalogue.layout import DataSet

UNED_SUBSETS = ("food2k", "cars", "sop", "inshop", "inat", "met", "gldv2", "rp2k")
"""In the order of the paper's tables."""
UNED_WITH_INDEX = ("inshop", "met", "gldv2")
"""Those with an index of their own; in the others every picture of `test` asks all others."""
UNED_PICTURES = {"inshop": "deepfashion"}
"""Folders of pictures that are not called like their sub-set."""
UNED_INDEX = "index"
"""Name of the info files of what is looked through."""
SUGARCREPE_PICTURES = ("coco/val2017", "coco/images/val2017", "sugar-crepe/data/coco/images/val2017")
"""Where people have them; one is enough."""

CLASSES: dict[str, DataSet] = {
    "imagenet": DataSet(
        title="ImageNet-1K, 1000 classes",
        kind="classes",
        tasks=("zero_shot_classification", "knn", "linear_classification", "health", "agreement"),
        page="https://image-net.org (ILSVRC2012_img_val.tar sorted into folders, ILSVRC2012_img_train.tar)",
        folders=("ImageNet", "imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC"),
        tree="{train,val}/n01440764/*.JPEG (a folder for each of the 1000 WordNet ids)",
        needs={"train": ("train",), "val": ("val",)},
        splits={"train": "train", "val": "val"},
    ),
}
CAPTIONS: dict[str, DataSet] = {
    "flickr30k": DataSet(
        title="Flickr30k, Karpathy's split",
        kind="captions",
        tasks=("retrieval",),
        page=(
            "https://shannon.cs.illinois.edu/DenotationGraph (pictures), "
            "https://cs.stanford.edu/people/karpathy/deepimagesent (caption_datasets.zip)"
        ),
        folders=("flickr30k", "Flickr30k"),
        tree="flickr30k-images/*.jpg | flickr30k_images/*.jpg | images/*.jpg\ndataset_flickr30k.json",
        needs=dict.fromkeys(
            ("train", "val"), ("dataset_flickr30k.json", ("flickr30k-images", "flickr30k_images", "images"))
        ),
        splits={"train": "train", "val": "test"},
    ),
    "coco_karpathy": DataSet(
        title="COCO 2014 captions, Karpathy's split",
        kind="captions",
        tasks=("retrieval",),
        page=(
            "https://cocodataset.org/#download (train2014.zip, val2014.zip), "
            "https://cs.stanford.edu/people/karpathy/deepimagesent (caption_datasets.zip)"
        ),
        folders=("coco",),
        tree="{train2014,val2014}/*.jpg | images/{train2014,val2014}/*.jpg\ndataset_coco.json",
        needs={
            "train": ("dataset_coco.json", ("train2014", "images/train2014"), ("val2014", "images/val2014")),
            "val": ("dataset_coco.json", ("val2014", "images/val2014")),
        },
        splits={"train": "train", "val": "test"},
    ),
    "coco_captions": DataSet(
        title="COCO 2017 captions",
        kind="captions",
        tasks=("retrieval",),
        page="https://cocodataset.org/#download (val2017.zip, annotations_trainval2017.zip)",
        folders=("coco",),
        tree=(
            "{train2017,val2017}/*.jpg | images/{train2017,val2017}/*.jpg\n"
            "annotations/captions_{train2017,val2017}.json"
        ),
        needs={
            "train": (("train2017", "images/train2017"), "annotations/captions_train2017.json"),
            "val": (("val2017", "images/val2017"), "annotations/captions_val2017.json"),
        },
        splits={"train": "train2017", "val": "val2017"},
    ),
    "docci": DataSet(
        title="DOCCI, long descriptions",
        kind="captions",
        tasks=("retrieval",),
        page="https://google.github.io/docci (docci_descriptions.jsonlines, docci_images.tar.gz)",
        folders=("docci", "DOCCI"),
        tree="images/*.jpg\ndocci_descriptions.jsonlines",
        needs=dict.fromkeys(("train", "val"), ("images", "docci_descriptions.jsonlines")),
        splits={"train": "train", "val": "test"},
    ),
}
PAIRS: dict[str, DataSet] = {
    "sugarcrepe": DataSet(
        title="SugarCrepe, seven kinds of wrong captions",
        kind="pairs",
        tasks=("compositional_pairs",),
        page="https://github.com/RAIVNLab/sugar-crepe (folder data), https://cocodataset.org/#download (val2017.zip)",
        folders=(".",),
        tree=(
            "sugar-crepe/data/{add,replace,swap}_{att,obj}.json and replace_rel.json | sugarcrepe/ with these files\n"
            f"{' | '.join(f'{place}/*.jpg' for place in SUGARCREPE_PICTURES)}"
        ),
        needs={"val": (("sugar-crepe/data/add_att.json", "sugarcrepe/add_att.json"), SUGARCREPE_PICTURES)},
        splits={"val": "test"},
    ),
}
INSTANCES: dict[str, DataSet] = {
    "uned": DataSet(
        title="UnED, eight collections of instances",
        kind="instances",
        tasks=("instance_retrieval",),
        page="https://cmp.felk.cvut.cz/univ_emb (info_files.zip, and where the pictures of the eight come from)",
        folders=("UnED", "uned", "Universal-Image-Embeddings/data"),
        tree=(
            f"info_files/{{{','.join(UNED_SUBSETS)}}}/test.json\n"
            f"info_files/{{{','.join(UNED_WITH_INDEX)}}}/index.json\n"
            "images/{food2k/Food2k_complete,cars/car_ims,sop/*_final,deepfashion/inshop/img,inat/train_val2018,met/MET,\n"
            "        met/test_met,gldv2/images/{index,test},rp2k/all} with the pictures that the info files name"
        ),
        needs={
            "val": (
                *(f"info_files/{name}/test.json" for name in UNED_SUBSETS),
                *(f"info_files/{name}/{UNED_INDEX}.json" for name in UNED_WITH_INDEX),
                *(f"images/{UNED_PICTURES.get(name, name)}" for name in UNED_SUBSETS),
            )
        },
        splits={"val": "test"},
    ),
}
