"""The lineage lab: small models pre-trained on the spot, adapters on each, and every copy from every base to every other.

    sizes.py      every number that decides what is computed; pieces that are finished once
    text.py       real text, a tokenizer of its own, packed blocks
    pretrain.py   five releases of one run and an independent seed
    tasks.py      tasks whose success depends on the base to different degrees
    adapters.py   one LoRA adapter per base and task
    cells.py      source x target: the four stages of the rebase check on every cell
    contest.py    which signal foretells the verdict
    page.py       what is printed, and docs/lab.md; pictures.py: its pictures

Run it with `make lab`, or `python -m benchmarks.lab --help`.
"""
