"""Models at a Tinker service: it holds, samples and trains LoRA adapters, we say by which loss.

dialects    what each kind of server can do, in one table
service     the connection; every wait has a deadline
adapter     one set of adapters: created, saved, restored
engine      samples
learner     our losses as functions of log-probabilities
account     tokens, and what they cost
build       a Runtime of these; what a config may not ask for
"""
