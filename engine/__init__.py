"""Doing it at scale: plans, tasks, ledger, and the verbs that go over the sky."""
