"""One arm over one test set: teacher-forced scores, and greedy answers where a dataset's scorer needs them.

The head of the model runs at the answer's positions only, rows of like length go together, and what all rows have in
common at their start is computed once. Rows that the model turns by other angles stand in other batches
(`workbench.hf.rope`). A row that has to be answered goes on from the keys and values of its own
teacher-forced pass, with the expected answer hidden by the attention mask, so its prompt is read once, not twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from transformers import GenerationConfig

from workbench.data.scorers import score as is_right
from workbench.data.scorers import scorer_of
from workbench.hf.generate import decode, decoded, greedy, stop_ids
from workbench.hf.prefix import Prefix, common_prefix, plain_cache
from workbench.hf.rope import length_kind
from workbench.records import ItemScore

__all__ = ["Arm", "TestItem", "TestSet", "spread"]

CHECKED = 8  # rows per arm that are also generated for real, to confirm what teacher forcing says
CHECKED_TOKENS = 48  # of each of them, at most
LONGEST_ANSWER = 512  # generated tokens, at most
LONGEST_SAMPLE = 96  # of an answer that is only shown
_SPEED_BASIS = 135e6 * 2048  # parameters x tokens of a batch that takes seconds on two plain cores
_CELLS = 32_000_000  # answer tokens x vocabulary of a batch: 128 MB of float32 logits


@dataclass(frozen=True)
class TestItem:
    """A test row as token ids. The answer is `ids[start:]`, its end of turn included."""

    __test__ = False  # pytest: not a test class

    id: str
    ids: list[int]
    start: int
    cut: bool  # max_length took a part of the answer
    question: str
    expected: str

    @property
    def answer(self) -> list[int]:
        return self.ids[self.start :]

    @property
    def fed(self) -> int:
        """Tokens that go through the model: the answer's last one predicts nothing we ask for."""
        return len(self.ids) - 1


@dataclass(frozen=True)
class TestSet:
    """Test rows ready to be scored by any arm of one base."""

    __test__ = False

    items: list[TestItem]
    scorer: str | None
    skipped: Sequence[str] = ()  # ids of rows whose whole answer lies beyond max_length
    groups: list[str | None] | None = None

    @cached_property
    def prefix(self) -> int:
        """First tokens that all rows share; a prompt's last token is never one: it predicts the answer's first."""
        return common_prefix([item.ids for item in self.items], min(item.start for item in self.items) - 1)

    @property
    def longest_answer(self) -> int:
        """Tokens granted to a generated answer: the same for every row, so that no row's length is given away."""
        return min(LONGEST_ANSWER, max(len(item.answer) for item in self.items) * 3 // 2 + 8)


class Arm:
    """A model as it stands, over one test set. After `score`, `generated`, `checked` and `agreed` tell how it went."""

    def __init__(self, model: Any, tokenizer: Any, test: TestSet) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.test = test
        self.generated = self.checked = self.agreed = 0
        self._stop = stop_ids(model, tokenizer)
        self._kind = length_kind(model)
        self._start = Prefix.compute(model, test.items[0].ids[: test.prefix])
        self._foreseen: dict[str, list[int]] = {}  # row id -> what greedy decoding will say, up to its first slip

    def _prefix(self, tokens: int) -> Prefix | None:
        """The common start for rows of `tokens` tokens, where they have it as it was computed."""
        return self._start if self._start and self._kind(tokens) == self._kind(self._start.length) else None

    def _shared(self, tokens: int) -> int:
        prefix = self._prefix(tokens)
        return prefix.length if prefix else 0

    def score(self, advance: Callable[[int, int], None]) -> list[ItemScore]:
        """The scores in the order of the items. `advance(rows, tokens)` is called after each batch and may raise."""
        found: dict[int, ItemScore] = {}
        for batch in self._batches():
            items = [self.test.items[i] for i in batch]
            found.update(zip(batch, self._score_batch(items), strict=True))
            advance(len(items), sum(len(item.ids) - self._shared(item.fed) for item in items))
        return [found[i] for i in range(len(self.test.items))]

    def _batches(self) -> Iterator[list[int]]:
        """Indices of items of like length, the longest first, so that what does not fit fails at once."""
        items, on_gpu = self.test.items, self.model.device.type == "cuda"
        budget = 16_384 if on_gpu else int(min(2048.0, max(256.0, _SPEED_BASIS / self.model.num_parameters())))
        vocabulary = self.model.config.get_text_config().vocab_size
        order = sorted(range(len(items)), key=lambda i: (-len(items[i].ids), -len(items[i].answer), items[i].id))
        batch: list[int] = []
        answers = longest = 0
        for i in order:
            longest = longest or len(items[i].ids)  # all rows are padded to the first, the longest
            answers += len(items[i].answer)
            size = len(batch) + 1
            own = longest - self._shared(longest - 1)
            full = own * size > budget or longest * size > 4 * budget or answers * vocabulary > _CELLS
            if batch and (full or self._kind(items[i].fed) != self._kind(longest - 1)):
                yield batch
                batch, answers, longest = [], len(items[i].answer), len(items[i].ids)
            batch.append(i)
        yield batch

    @torch.inference_mode()
    def _score_batch(self, items: list[TestItem]) -> list[ItemScore]:
        """One forward pass for `items`, and greedy answers for those whose scorer needs them."""
        fed = max(item.fed for item in items)
        prefix, shared = self._prefix(fed), self._shared(fed)
        longest = fed - shared
        ids = torch.zeros(len(items), longest, dtype=torch.long)
        asked = torch.zeros(len(items), longest, dtype=torch.bool)
        for row, item in enumerate(items):
            inputs = item.ids[shared:-1]
            ids[row, : len(inputs)] = torch.tensor(inputs)
            asked[row, item.start - 1 - shared : len(inputs)] = True
        out = self.model(
            input_ids=ids.to(self.model.device),  # padded on the right, where causal attention never looks
            past_key_values=prefix.expanded(len(items)) if prefix else None,
            use_cache=self.test.scorer is not None or prefix is not None,
            logits_to_keep=asked.to(self.model.device),
        )
        logits = out.logits.reshape(-1, out.logits.shape[-1])
        sizes = [len(item.answer) for item in items]
        nll, best = _judge(logits, torch.tensor([token for item in items for token in item.answer], device=logits.device))
        said = [part.tolist() for part in best.cpu().split(sizes)]
        sums = [float(part.sum()) for part in nll.double().cpu().split(sizes)]
        scores = [
            ItemScore(item.id, total, len(item.answer), len(item.expected.encode()), tokens == item.answer and not item.cut)
            for item, tokens, total in zip(items, said, sums, strict=True)
        ]
        for item, tokens in zip(items, said, strict=True):
            slip = next((i for i, (a, b) in enumerate(zip(tokens, item.answer, strict=True)) if a != b), len(tokens))
            self._foreseen[item.id] = tokens[: slip + 1][:CHECKED_TOKENS]
        if self.test.scorer is None:
            return scores
        return self._with_answers(items, scores, getattr(out, "past_key_values", None), [tokens[0] for tokens in said])

    # ------------------------------------------------------------ answers

    def _with_answers(self, items: list[TestItem], scores: list[ItemScore], cache: Any, first: list[int]) -> list[ItemScore]:
        """Fill in `right`, generating an answer where the scores leave it open."""
        scorer = self.test.scorer
        assert scorer is not None
        verbatim = scorer_of(scorer).verbatim
        opened = [i for i, score in enumerate(scores) if not score.exact and (not verbatim or items[i].cut)]
        answers = dict(zip(opened, self._go_on([items[i] for i in opened], opened, cache, first), strict=True))
        return [
            replace(score, right=is_right(scorer, items[i].expected, answers[i]), answer=answers[i])
            if i in answers
            else replace(score, right=score.exact)
            for i, score in enumerate(scores)
        ]

    def _go_on(self, items: list[TestItem], rows: list[int], cache: Any, first: list[int]) -> list[str]:
        """Greedy answers to `items`, which are the `rows` of the batch that filled `cache`."""
        if not items:
            return []
        self.generated += len(items)
        limit, ended = self.test.longest_answer, self._ended()
        alike = len({self._kind(tokens) for item in items for tokens in (item.fed, item.start, item.start + limit)}) == 1
        if plain_cache(cache) and alike:
            on = self.model.device
            cache.batch_select_indices(torch.tensor(rows, device=on))
            mask = torch.zeros(len(rows), cache.get_seq_length(), dtype=torch.long)
            for row, item in enumerate(items):
                mask[row, : item.start] = 1
            position = torch.tensor([item.start for item in items], device=on)
            token = torch.tensor([first[i] for i in rows], device=on)
            answers: list[list[int]] = [[] for _ in rows]
            limits = [limit] * len(rows)
            decode(self.model, cache, mask.to(on), position, token, answers=answers, limits=limits, stop=self._stop, ended=ended)
        else:
            answers = self._greedy(items, limit, self._stop, ended)
        return [decoded(self.tokenizer, tokens, self._stop) for tokens in answers]

    def _greedy(
        self, items: Sequence[TestItem], limit: int, stop: frozenset[int], ended: Callable[[list[int]], bool] | None = None
    ) -> list[list[int]]:
        skipped = self._start.length if self._start else 0
        prompts = [item.ids[skipped : item.start] for item in items]
        return greedy(self.model, prompts, max_new_tokens=limit, stop=stop, prefix=self._start, ended=ended)

    def _ended(self) -> Callable[[list[int]], bool] | None:
        """Where an answer is judged by its first line, what follows need not be generated."""
        if self.test.scorer is None or not scorer_of(self.test.scorer).first_line:
            return None
        return lambda tokens: "\n" in self.tokenizer.decode(tokens, skip_special_tokens=True).lstrip()

    def show(self, scores: list[ItemScore], rows: Sequence[int]) -> list[str]:
        """What this arm answers to some rows; generated where the scores do not tell."""
        texts = {i: self.test.items[i].expected if scores[i].exact else scores[i].answer for i in rows}
        unknown = [i for i, text in texts.items() if text is None]
        if unknown:
            limit = min(LONGEST_SAMPLE, self.test.longest_answer)
            for i, tokens in zip(unknown, self._greedy([self.test.items[i] for i in unknown], limit, self._stop), strict=True):
                text = decoded(self.tokenizer, tokens, self._stop)
                texts[i] = text if tokens[-1] in self._stop else f"{text} …"
        return [texts[i] or "" for i in rows]

    @torch.inference_mode()
    def serve(self, scores: list[ItemScore], n: int) -> dict[str, int]:
        """Answer `n` exactly right rows as a server would: transformers' own `generate`, greedy, with the stop tokens that the
        base declares and nothing of ours. An answer that is right token by token and yet does not end shows up here only.
        """
        rows = spread([i for i, score in enumerate(scores) if score.exact], n)
        same = 0
        for i in rows:
            item = self.test.items[i]
            prompt = torch.tensor([item.ids[: item.start]], device=self.model.device)
            declared = self.model.generation_config
            how = GenerationConfig(
                do_sample=False,
                max_new_tokens=len(item.answer) + 8,
                eos_token_id=declared.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
            )
            said = self.model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), generation_config=how)
            same += self.tokenizer.decode(said[0, item.start :].tolist(), skip_special_tokens=True).strip() == item.expected.strip()
        return {"rows": len(rows), "same": same}

    def check(self, scores: list[ItemScore]) -> None:
        """Generate a few rows from their prompts alone and count those that say, up to the first slip, what was foreseen."""
        exact = [i for i, score in enumerate(scores) if score.exact]
        other = [i for i, score in enumerate(scores) if not score.exact]
        half = CHECKED // 2
        sample = spread(exact, max(half, CHECKED - len(other))) + spread(other, max(half, CHECKED - len(exact)))
        items = [self.test.items[i] for i in sample]
        foreseen = [self._foreseen[item.id] for item in items]
        found = self._greedy(items, max(map(len, foreseen)), frozenset())
        self.checked += len(items)
        self.agreed += sum(tokens[: len(wanted)] == wanted for tokens, wanted in zip(found, foreseen, strict=True))


def _judge(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(nats per answer token in float32, most likely tokens), from logits [tokens, vocabulary], a block at a time."""
    nll, best = [], []
    for part, wanted in zip(logits.split(256), targets.split(256), strict=True):
        nll.append(torch.nn.functional.cross_entropy(part.float(), wanted, reduction="none"))
        best.append(part.argmax(-1))
    return torch.cat(nll), torch.cat(best)


def spread(indices: list[int], n: int) -> list[int]:
    """At most `n` of `indices`, evenly spread."""
    return indices if len(indices) <= n else [indices[i * len(indices) // n] for i in range(n)]
