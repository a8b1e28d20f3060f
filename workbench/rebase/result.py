"""What a rebase check found, as records. `Check.as_dict` is the JSON of every `--json` and of `check.json` on disk (docs/json.md).

The four arms have these names everywhere: "home" is the bare base A, "home_adapter" A with the adapter, "new" the bare base B,
"new_adapter" B with the adapter. Contrasts are losses subtracted, so a positive number is always good news:

    gain      home - home_adapter          what the adapter gives at home (x in the formulas of docs/rebase.md)
    transfer  new - new_adapter            what it gives on the new base (y)
    served    home_adapter - new_adapter   what the user feels (u)
    alone     home_adapter - new           how good the new base is by itself (w)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from workbench.errors import UsageError
from workbench.records import as_json, from_json
from workbench.stats import LEVEL, RESAMPLES, SEED, Interval

__all__ = [
    "CHANGES",
    "DEFAULT_STAGES",
    "NOTES",
    "SCHEMA",
    "STAGES",
    "Check",
    "Contrasts",
    "Finding",
    "Health",
    "Lineage",
    "ModuleDrift",
    "Probes",
    "Retrained",
    "Settings",
    "Structure",
    "Verdict",
    "Weights",
    "Witness",
]

SCHEMA = 2
_LETTERS = {"x": "gain", "y": "transfer", "u": "served", "w": "alone"}  # what schema 1 called the contrasts

STAGES = ("structure", "weights", "probes", "behaviour")  # of a check, in their order
DEFAULT_STAGES = tuple(stage for stage in STAGES if stage != "probes")

# What happened to the weights between A and B, as stage 1 can tell.
NOTES = (
    "order_unknown",  # whether neurons stand in another order was not looked at: how is not known for this kind of model
    "fused_experts",  # the adapter changes experts that are one tensor on disk: how far they moved was not looked at
)
CHANGES = (
    "identical",  # the same bytes
    "recast",  # the same numbers in another dtype
    "requantised",  # rounded to fewer levels
    "low_rank",  # a patch of low rank was merged into it
    "continuation",  # trained further, in the same coordinates
    "permuted",  # the same model (or a continuation of it) in permuted coordinates
    "independent",  # another training run of the same shapes
    "other_shape",  # not comparable tensor by tensor
    "unknown",  # A's weights are gone and its sketches do not tell, or this kind of model is not known and moved far
)


@dataclass(frozen=True)
class Settings:
    """The limits of the rule. Raises `UsageError` for limits that make no sense."""

    delta: float = 0.10  # share of the gain that may go missing before B is said to have absorbed it
    epsilon: float = 0.02  # of a success score: two points
    epsilon_nll: float = 0.02  # nats per token, or bits per byte where tokenizers differ
    resamples: int = RESAMPLES
    seed: int = SEED
    level: float = LEVEL

    def __post_init__(self) -> None:
        sound = 0 <= self.delta < 1 and 0 < self.epsilon < 1 and self.epsilon_nll > 0 and self.resamples >= 1000 and 0.5 < self.level < 1
        if not sound:
            raise UsageError(
                "These limits of the check make no sense.",
                hint="0 <= delta < 1, 0 < epsilon < 1, epsilon_nll > 0, resamples >= 1000, 0.5 < level < 1.",
            )


@dataclass(frozen=True)
class Finding:
    """One named thing that differs between the bases, or that ties the adapter to its own."""

    name: str  # a key of findings.CATALOGUE, such as "eos_id_moved"
    level: str  # "break": cannot load, or means something else; "risk": loads, may behave differently; "note"
    text: str  # what was and what is, in English
    details: dict[str, Any] = field(default_factory=dict)
    said: tuple[str, ...] = ()  # the sentences, as ends of string keys that `details` fill; empty in checks of earlier versions


@dataclass(frozen=True)
class Structure:
    """Stage 0."""

    findings: tuple[Finding, ...]  # breaks first, then risks, then notes; all of them
    template_diff: str = ""  # unified diff of the probe conversations as both templates render them
    seconds: float = 0.0

    @property
    def breaks(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "break")


@dataclass(frozen=True)
class Lineage:
    """The neuron-matching test (Zhu et al., arXiv 2502.12292) after the residual stream was aligned from the embeddings."""

    residual_cosine: float  # mean |cosine| of matched residual dimensions over shared tokens
    residual_identity: float  # share of residual dimensions matched to themselves
    identity: float  # share of MLP neurons that gate rows match to themselves
    agreement: float  # share of MLP neurons that gate rows and up rows match to the same neuron
    layers: tuple[int, ...]  # the layers looked at
    reading: str  # "same" | "permuted" | "independent" | "unclear" | "not looked at"
    p_value: float  # of the agreement, under independent runs


@dataclass(frozen=True)
class ModuleDrift:
    """One adapted module, D = W_B - W_A and dW the adapter's update. None where the old weights are gone."""

    module: str  # model.layers.3.mlp.up_proj
    group: str  # "attention" | "mlp" | "embeddings" | "other"
    layer: int | None
    drift: float  # |D| / |W_A|, Frobenius
    ratio: float | None  # |D| / |dW|: how many adapters' worth the base moved
    input: float | None  # |D Q_A| / |W_A Q_A|, Q_A = orth(lora_A^T)
    output: float | None  # |Q_B^T D| / |Q_B^T W_A|, Q_B = orth(lora_B)
    alignment: float | None  # <D, dW> / (|D| |dW|): positive, the base went the adapter's way
    weight: float | None = None  # |W_A|, Frobenius; None in checks of earlier versions


@dataclass(frozen=True)
class Weights:
    """Stage 1. Explains and triages; never decides."""

    change: str  # one of CHANGES
    exact: bool  # False: estimated from the lock's sketches
    error: float | None = None  # relative standard error of `drift` when it is estimated
    drift: float | None = None  # over all adapted modules together
    ratio: float | None = None
    input: float | None = None
    output: float | None = None
    alignment: float | None = None
    embeddings: float | None = None  # relative drift of the embeddings
    norms: float | None = None  # relative drift of the norm weights
    lineage: Lineage | None = None
    modules: tuple[ModuleDrift, ...] = ()
    worst: tuple[str, ...] = ()  # the layers that moved most, such as ("layer 24", "layer 29")
    notes: tuple[str, ...] = ()  # of NOTES
    bytes_read: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Probes:
    """Stage 2, on unlabelled prompts."""

    prompts: int
    cka: dict[str, float]  # layer number as text -> linear CKA of last-token states, A against B
    cka_mean: float
    top1_agreement: float | None  # share of prompts after which A and B say the same token; None where vocabularies differ
    jsd: float | None  # mean Jensen-Shannon divergence of next-token distributions, nats
    effect_correlation: float | None  # corr over prompts of e_A and e_B, e = log p with adapter - log p without, on A+a's own answers
    effect_slope: float | None
    effect_ratio: float | None  # KL(B+a || B) / KL(A+a || A): 0 disengaged, far above 1 over-reacting
    dose: dict[str, float] = field(default_factory=dict)  # alpha as text -> nats per token of B + alpha a on a few test rows
    best_dose: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Contrasts:
    """The four differences in one metric, each with its 95 % interval, and kept = transfer - (1 - delta) gain."""

    gain: Interval  # what the adapter gives at home
    transfer: Interval  # what it gives on the new base
    served: Interval  # what the user feels
    alone: Interval  # how good the new base is without it, beside home with it
    kept: Interval  # negative beyond doubt: the new base already knew part of it


@dataclass(frozen=True)
class Verdict:
    """Stage 3: the word, why, and every number it rests on."""

    word: str  # one of verdicts.VERDICTS
    absorbed: bool  # works, but B already knew part of it
    metric: str  # the one that decided: "right" | "exact_match" | "nll_per_token" | "bits_per_byte"
    because: str  # the line of the rule that matched, with its numbers, in English
    n: int  # test rows
    groups: int | None  # units resampled, where rows come in groups
    arms: dict[str, dict[str, float]]  # arm -> metric -> score (success as a share, the others as nats or bits)
    contrasts: dict[str, Contrasts]  # by metric
    lost_rows: int | None = None  # right at home with the adapter, wrong on B with it; None for text without a success score
    won_rows: int | None = None
    lost_share: tuple[float, float] | None = None  # 95 % interval (Clopper-Pearson) of the share of lost rows
    flip_p: float | None = None  # exact McNemar
    p_worse: float | None = None  # one-sided: the user loses no more than epsilon
    rows_needed: int | None = None  # test rows that would settle "too close to tell"
    settings: Settings = field(default_factory=Settings)
    line: str = ""  # the name of that line: "gain" | "break" | "harm" | …; empty in checks of earlier versions
    home_gain: Interval | None = None  # the gain at home in `metric`, where nothing ran on the new base


@dataclass(frozen=True)
class Witness:
    """A test row that was right at home and is wrong on the new base, or whose loss grew most."""

    id: str
    prompt: str
    expected: str
    home: str | None  # what A with the adapter answered; None where nobody wrote it down
    new: str | None  # what B with the adapter answers
    home_nll: float  # nats per answer token
    new_nll: float


@dataclass(frozen=True)
class Health:
    """Neutral text under both bare bases: a broken base is not the adapter's fault."""

    passages: int
    home: float | None  # bits per byte; None when A is not here to be asked
    new: float
    change: Interval | None  # home - new, bits per byte: negative, the new base got worse
    broken: bool  # the new base is worse by more than a tenth, beyond doubt


@dataclass(frozen=True)
class Retrained:
    """Stage 4: the ceiling, an adapter trained on B by the stored recipe."""

    score: float
    metric: str
    recovered: float | None  # R = (s(B+a) - s(B)) / (s(B+a*) - s(B)); None where the denominator is too small to divide by
    recovered_low: float | None
    recovered_high: float | None
    headroom: Interval  # s(B+a*) - s(B+a)
    seconds: float


@dataclass(frozen=True)
class Check:
    """One adapter on one new base."""

    adapter: str  # "name@3"
    adapter_sha256: str  # of its manifest
    home: str  # the base it was made for
    home_lock_sha256: str
    base: str  # the new one
    base_lock_sha256: str
    dataset: str | None
    structure: Structure
    weights: Weights | None = None
    probes: Probes | None = None
    verdict: Verdict | None = None  # None when stage 3 was not asked for
    witnesses: tuple[Witness, ...] = ()
    health: Health | None = None
    retrained: Retrained | None = None
    how: dict[str, Any] = field(default_factory=dict)  # dtype, seconds per stage, skipped rows, agreement with real generation
    warnings: tuple[Finding, ...] = ()  # what to know before trusting the numbers
    created_at: str = ""  # ISO 8601, UTC
    job_id: str | None = None
    schema: int = SCHEMA

    @property
    def word(self) -> str | None:
        """The verdict's word; "cannot load" also without stage 3, since a break needs no test."""
        if self.verdict is not None:
            return self.verdict.word
        return "cannot load" if self.structure.breaks else None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        data: dict[str, Any] = as_json(self)
        return {**data, "word": self.word}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Check:
        """The inverse of `as_dict`, also for what schema 1 wrote; keys that this version does not know are left out.

        Raises `ValueError` for another schema, and `KeyError` or `TypeError` for what is not a check.
        """
        if data["schema"] not in (1, SCHEMA):
            raise ValueError(f"it has schema {data['schema']!r}; this version reads 1 to {SCHEMA}")
        # schema 1 kept warnings as sentences
        warnings = [{"name": "", "level": "risk", "text": told} if isinstance(told, str) else told for told in data.get("warnings", ())]
        verdict = data.get("verdict")
        if verdict is not None:
            named = {m: {_LETTERS.get(name, name): c for name, c in of.items()} for m, of in verdict["contrasts"].items()}
            verdict = {**verdict, "contrasts": named}
        check: Check = from_json(cls, {**data, "schema": SCHEMA, "warnings": warnings, "verdict": verdict})
        return check
