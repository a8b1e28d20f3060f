"""Does an adapter made for base A still work on base B? Four stages, cheap first.

    structure.py   0  what configurations, tokenizers.py, templates.py and PEFT methods.py say, as named findings.py; milliseconds
    weights.py     1  how far the weights moved as the adapter sees it (drift.py, factors.py), what kind of change.py it is,
                      lineage.py: whose child B is; calibration.py: the colours that the lineage lab measured
    (hf/probes.py) 2  what both models do on unlabelled prompts
    verdict.py     3  the frozen test set in four arms (contrasts.py) and the rule.py: the only stage that decides
    ceiling.py     4  what training anew on B would give

    result.py         the records of a check, and its JSON
    store.py          checks on disk, and what they share
    report.py         sentences, and the page that opens offline (report_parts.py)
    recoordinate.py   the same model in other coordinates (writing.py), for the self-test

Nothing here imports torch.
"""
