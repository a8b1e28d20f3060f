"""Does an adapter made for base A still work on base B? Four stages, cheap first.

    structure.py   0  what configurations, tokenizers.py, templates.py and PEFT methods (adapter.py) say, as named findings.py; milliseconds
    weights.py     1  how far the weights moved as the adapter sees it (factors.py), what kind of change.py it is,
                      lineage.py: whose child B is
    (hf/probes.py) 2  what both models do on unlabelled prompts
    verdict.py     3  the frozen test set in four arms (contrasts.py) and the rule.py: the only stage that decides
    (contrasts.py) 4  what training anew on B would give

    result.py         the records of a check, and its JSON
    store.py          checks on disk, and what they share
    verdicts.py       the words, each with its tone, its mark and its place from good to bad
    telling.py        a check as sections of plain values (moved.py); release.py: many adapters on one base
    report.py         the telling as markup, for the page and for the report that opens offline
    recoordinate.py   the same model in other coordinates (writing.py), for the self-test

Nothing here imports torch.
"""
