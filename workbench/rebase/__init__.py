"""Does an adapter made for base A still work on base B? Four stages, cheap first.

    structure.py   0  what configs, tokenizers and headers say: named findings (findings.py), no torch, milliseconds
    weights.py     1  how far the weights moved, as the adapter sees it; lineage.py: whose child B is
    (hf/probes.py) 2  what both models do on unlabelled prompts
    verdict.py     3  the frozen test set in four arms: the only stage that decides

    result.py         the records of a check, and its JSON
    store.py          checks on disk, and what they share
    simulate.py       how often the rule errs; published.py: the rule beside published numbers
    recoordinate.py   the same model in other coordinates; controls.py: bases and adapters whose verdict is known
    report.py         sentences, and the page that opens offline

Nothing here imports torch.
"""
