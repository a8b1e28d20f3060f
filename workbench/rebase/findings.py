"""The catalogue of findings: what stage 0 can say about two bases and an adapter, how grave it is, and what to do about it.

A finding has a level. "break": the adapter cannot load on the new base, or it would mean something else there; "risk": it loads and
may behave differently, which the behavioural test then measures; "note": worth knowing. docs/findings.md is made from here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from workbench.rebase.result import Finding

__all__ = ["CATALOGUE", "LEVELS", "Entry", "found", "ordered"]

LEVELS = ("break", "risk", "note")


@dataclass(frozen=True)
class Entry:
    """One named finding."""

    level: str  # one of LEVELS
    title: str
    explanation: str
    advice: str
    milder: str = ""  # the lesser level it can also have
    when: str = ""  # and the case in which it has it


_RUN = "Run the behavioural test: `workbench rebase check`."
_RETRAIN = "Retrain the adapter on the new base from its stored recipe."
_SHAPES = "Pick a base of the same size, or retrain the adapter on this one."

CATALOGUE: dict[str, Entry] = {
    # -- whose adapter it is
    "home_mismatch": Entry(
        "break", "The old base is not the one the adapter was trained on",
        "The adapter keeps the lock of the base it was trained on, and the weights in that lock are not those of the base it is compared "
        "with. Everything said about the way from old to new would be about another adapter.",
        "Name the right home base, or let the check use the lock inside the adapter.",
        "risk", "the weights are the same and only configuration, tokenizer or chat template differ",
    ),
    "home_unknown": Entry(
        "risk", "Nobody wrote down what the adapter was trained on",
        "The adapter has no readable base.lock.json, so it is taken on trust that the given home base is the base of its training.",
        "Import it with the base it was made for; then its lock is kept with it.",
    ),
    "same_base": Entry(
        "note", "The new base is the home base", "Both locks are the same file: nothing can differ.", "Nothing to do.",
    ),
    "same_weights": Entry(
        "note", "The weights are identical",
        "Every tensor has the same bytes in both bases; only what is listed beside this can differ.", "Nothing to do for the weights.",
    ),
    "license_changed": Entry(
        "note", "The licence is another one", "The new base, and adapters on it, are governed by its own terms.",
        "Read them before sharing anything made with it.",
    ),
    # -- do the adapter's tensors fit
    "module_missing": Entry(
        "break", "Modules that the adapter changes do not exist in the new base",
        "PEFT would pass over these weights with a warning at most, and the rest of the adapter would work alone.", _RETRAIN,
    ),
    "module_reshaped": Entry(
        "break", "Modules that the adapter changes have another shape in the new base",
        "lora_A is r x in and lora_B is out x r; their product must have the shape of the weight it is added to.", _RETRAIN,
    ),
    "hidden_size_changed": Entry(
        "break", "The hidden size is another one", "Every module reads from or writes to the residual stream, so none fits.", _SHAPES,
    ),
    "layer_count_changed": Entry(
        "break", "The number of layers is another one",
        "A layer's role depends on its place in the stack. Updates for layers that are gone have nowhere to go.", _SHAPES,
        "risk", "every layer that the adapter changes is still there",
    ),
    "heads_changed": Entry(
        "break", "Attention heads were cut differently",
        "The rows of q, k and v (and the columns of o) belong to heads. With another number or size of heads the same rows mean something "
        "else, even where the shapes agree.", _SHAPES, "risk", "the adapter does not touch attention",
    ),
    "intermediate_size_changed": Entry(
        "break", "The MLP has another width", "Updates of MLP weights are tied to single neurons, which are not the same ones.", _SHAPES,
        "risk", "the adapter does not touch the MLP",
    ),
    "experts_changed": Entry(
        "break", "The number of experts is another one", "An update for an expert needs that expert.", _SHAPES,
        "risk", "the adapter does not touch experts",
    ),
    # -- is it the same kind of network
    "architecture_changed": Entry(
        "break", "It is another kind of model",
        "model_type or architectures differ, so other code runs the weights.", _RETRAIN,
        "risk", "all modules of the adapter fit; some families are the same network under two names",
    ),
    "activation_changed": Entry(
        "risk", "The MLP uses another activation function",
        "The adapter's MLP updates were learned around the old one. Between approximations of the same function little changes.", _RUN,
    ),
    "bias_changed": Entry(
        "risk", "Biases were added or removed", "The adapted modules compute with, or without, an additional constant.", _RUN,
    ),
    "qk_norm_changed": Entry(
        "risk", "Normalisation of queries and keys was added or removed",
        "A norm right after q and k undoes the length of what the adapter adds to them.", _RUN,
    ),
    "rope_changed": Entry(
        "risk", "Rotary position embedding was changed",
        "Updates of q and k are relative to the phase of each position: with another theta or scaling they act at other distances.",
        "Run the behavioural test, with rows as long as those in use.",
    ),
    "window_changed": Entry(
        "risk", "Layers see another stretch of text", "Sliding windows or the kinds of attention layers differ.",
        "Run the behavioural test, with rows as long as those in use.",
    ),
    "context_changed": Entry(
        "risk", "The longest context is another one", "Often a sign of long-context training, which moves attention weights.",
        "Check that the longest rows still fit.",
    ),
    "norm_eps_changed": Entry(
        "risk", "The epsilon of the norms is another one", "It matters where activations are small, above all in low precision.", _RUN,
    ),
    "norm_placement_changed": Entry(
        "risk", "Norms stand in other places", "What the adapted modules read is scaled differently from what the adapter was trained on.",
        _RUN,
    ),
    "softcap_changed": Entry(
        "risk", "Logits are capped differently", "A soft cap bends large logits; adding or removing one changes confidence.", _RUN,
    ),
    "multiplier_changed": Entry(
        "risk", "Scaling factors inside the network are others",
        "Multipliers of embeddings, residuals, attention or logits scale what the adapter adds.", _RUN,
    ),
    "routing_changed": Entry(
        "risk", "Tokens are sent to experts differently", "Another number of active experts, or another way of choosing them.", _RUN,
    ),
    "tied_embeddings_changed": Entry(
        "break", "Input and output embeddings were tied or untied",
        "The adapter changes one of them: when they are tied it changes both, when they are not, one alone.", _RETRAIN,
        "risk", "the adapter touches neither",
    ),
    "config_changed": Entry(
        "note", "Other keys of config.json differ", "None of them is known to change what the model computes.", "Read the list once.",
    ),
    # -- tokens
    "token_id_moved": Entry(
        "break", "Tokens have other ids",
        "The text is the same and the numbers are not: the adapter was trained on embedding rows that now stand elsewhere.", _RETRAIN,
    ),
    "token_gone": Entry(
        "break", "Tokens are gone",
        "The adapter was trained on tokens that the new tokenizer never produces; the texts are cut into others.", _RETRAIN,
    ),
    "tokens_renamed": Entry(
        "risk", "Added tokens were given other names",
        "The id is the same and its text is another, as when a release gives reserved tokens a meaning. The adapter breaks only if its "
        "texts or the chat template use them.", "Look for the old names in the training data.",
    ),
    "tokens_added": Entry(
        "risk", "Tokens were added", "All old tokens kept their ids. Texts that contain the new ones are cut differently.", _RUN,
    ),
    "vocabulary_rows_changed": Entry(
        "note", "The embedding has another number of rows", "The tokens are the same ones; rows were padded or cut off.", "Nothing to do.",
    ),
    "merges_changed": Entry(
        "risk", "Texts are cut into tokens by other merges", "The same words can become other tokens.", _RUN,
    ),
    "normalizer_changed": Entry(
        "risk", "Texts are normalised differently", "Case, accents or white space may be changed before tokens are cut.", _RUN,
    ),
    "pre_tokenizer_changed": Entry(
        "risk", "Texts are split into words differently", "Digits and spaces are the usual victims.", _RUN,
    ),
    "post_processor_changed": Entry(
        "risk", "Other tokens are put around a text", "Often a begin-of-text token that is added or no longer added.", _RUN,
    ),
    "decoder_changed": Entry(
        "risk", "Tokens are joined to text differently", "Answers may differ in spaces, which an exact comparison counts as wrong.", _RUN,
    ),
    "tokenizer_type_changed": Entry(
        "risk", "It is another kind of tokenizer", "Nothing about how texts are cut can be taken over.", _RUN,
    ),
    "tokenizer_unreadable": Entry(
        "risk", "A tokenizer cannot be read", "What it does to texts is therefore not known, and was not compared.",
        "Add the base again from a source that has tokenizer.json.",
    ),
    "added_tokens_changed": Entry(
        "risk", "Added tokens behave differently", "The list of added tokens, or how they match text (white space, whole words), differs.",
        _RUN,
    ),
    # -- where a text ends
    "eos_id_moved": Entry(
        "break", "The end-of-text token is another one",
        "The adapter learned to end its answers with a token that does not end them here: they run on.",
        "Set eos_token_id in generation_config.json to both ids, or retrain.",
        "risk", "the new base still stops at the old one, or did not name one before",
    ),
    "pad_id_moved": Entry(
        "break", "The padding token is another one",
        "Batches are filled with it. Where it was also the end-of-text token, what was masked in training no longer is.",
        "Compare answers of a batch with answers one by one.",
        "risk", "the new one is a token that the old base did not have, or one of the two bases names none",
    ),
    "bos_id_moved": Entry("risk", "The begin-of-text token is another one", "Every text starts with it, where one is added.", _RUN),
    "unk_id_moved": Entry("risk", "The unknown token is another one", "It stands for whatever the vocabulary lacks.", _RUN),
    "generation_eos_changed": Entry(
        "risk", "Generation stops at other tokens",
        "generation_config.json names the tokens that end an answer. With fewer of them answers run on, with more they end early.",
        "Compare lengths of answers in the behavioural test.",
    ),
    "generation_config_changed": Entry(
        "note", "Other defaults of generation differ", "Temperature and the like, used where a caller does not set them.",
        "Set them explicitly where they matter.",
    ),
    # -- chat template
    "chat_template_changed": Entry(
        "risk", "The chat template writes conversations differently",
        "Five conversations (system and user, several turns, a tool call, without generation prompt, empty system) were rendered with "
        "both. It is the first suspect when answers get worse while the loss stays fine.",
        "Read the difference. If the old template is meant, serve the adapter with its own.",
    ),
    "chat_template_text_changed": Entry(
        "note", "The chat template is written differently and renders the same",
        "All five probe conversations come out equal.", "Nothing to do.",
    ),
    "chat_template_added": Entry(
        "risk", "A chat template was added", "The old base had none, so the adapter was trained on another format.", _RUN,
    ),
    "chat_template_removed": Entry(
        "risk", "The chat template is gone", "Conversations cannot be rendered by the new base.",
        "Serve the adapter with the template in its own folder.",
    ),
    "chat_template_unreadable": Entry(
        "risk", "A chat template cannot be rendered", "It fails on every probe conversation, so templates could not be compared.",
        "Correct the template, or serve the adapter with the one in its own folder.",
    ),
    "own_chat_template": Entry(
        "note", "The adapter brings a chat template of its own", "It is not that of its home base.",
        "Serve it with its own template on the new base as well.",
    ),
    # -- numbers
    "dtype_changed": Entry(
        "risk", "The weights have another number format", "Rounding alone can change exact answers.", _RUN,
    ),
    "quantization_changed": Entry(
        "risk", "The weights are quantised differently",
        "The update fits around the rounding errors of the old weights. Loss hardly shows the damage; exact answers do.",
        "Run the behavioural test and look at success, not at the loss.",
    ),
    # -- what kind of adapter it is
    "coupled_initialisation": Entry(
        "break", "The adapter's factors belong to its own base",
        "PiSSA, OLoRA, CorDA, LoRA-GA and LoftQ change the frozen weights when training starts; the saved factors mean W - B0 A0 of the "
        "old base, which the new one does not have.",
        "Save it again as plain LoRA with path_initial_model_for_weight_conversion (PEFT) on the old base.",
    ),
    "dora": Entry(
        "risk", "DoRA puts the old base's column norms on the new one",
        "It rescales each output of W + dW to a stored magnitude, which was learned on the old weights.", _RUN,
    ),
    "full_weights_saved": Entry(
        "break", "The adapter holds whole weights that do not fit",
        "modules_to_save and trained embeddings replace the new base's weights by those trained on the old one.", _RETRAIN,
        "risk", "they fit: then they overwrite whatever the new base learned there",
    ),
    "trained_tokens": Entry(
        "break", "Single embedding rows were trained and do not fit",
        "trainable_token_indices replace embedding rows by id.", _RETRAIN,
        "risk", "the rows exist in the new base; they overwrite its own",
    ),
    "biases_saved": Entry(
        "risk", "The adapter holds whole biases", "They replace the new base's biases by those trained on the old one.", _RUN,
    ),
    "multiplicative_adapter": Entry(
        "risk", "The adapter multiplies weights", "(IA)3, OFT and their kin scale or turn what is there.", _RUN,
    ),
    "virtual_tokens": Entry(
        "break", "The adapter is a prompt of vectors that do not fit",
        "Prompt and prefix tuning live in the embedding or key-value space of one base.", _RETRAIN,
        "risk", "the sizes agree; whether the space does is for the behavioural test",
    ),
    "other_adapter_kind": Entry(
        "risk", "The adapter is of a kind this check does not know", "Module names were compared with the new base, shapes were not.",
        _RUN,
    ),
}  # fmt: skip


def found(name: str, text: str, *, milder: bool = False, details: dict[str, Any] | None = None) -> Finding:
    """A finding at its own level, or at the milder one that its entry allows."""
    entry = CATALOGUE[name]
    if milder and not entry.milder:
        raise KeyError(f"{name} has no milder level")
    return Finding(name, entry.milder if milder else entry.level, text, details or {})


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Breaks first, then risks, then notes, each in the catalogue's order."""
    names = list(CATALOGUE)
    return tuple(sorted(findings, key=lambda finding: (LEVELS.index(finding.level), names.index(finding.name))))
