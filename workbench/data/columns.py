"""The column names people use for the question and the answer, most telling first."""

from __future__ import annotations

__all__ = ["ANSWERS", "CONVERSATIONS", "KNOWN", "LABELS", "QUESTIONS", "ROLES"]

ROLES = ("question", "answer", "context", "system", "text", "messages", "tools", "split", "keep")  # what a mapping can say a column is
CONVERSATIONS = ("messages", "conversations", "conversation")
QUESTIONS = tuple("question query prompt instruction input user human source text sentence utterance document problem".split())
LABELS = ("label", "category", "intent", "class", "sentiment")
ANSWERS = (*"answer response completion output assistant reply target".split(), *LABELS, "summary", "solution", "translation")
KNOWN = frozenset((*ROLES, *CONVERSATIONS, *QUESTIONS, *ANSWERS, "chosen", "rejected", "history", "split", "id"))
