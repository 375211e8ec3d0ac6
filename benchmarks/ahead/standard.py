"""The cases that are always there: those of the page, and those that are compared in a hurry."""

from .case import Case

STANDARD = (
    *(
        Case("gpt-small", loop, "v5e-8", name)
        for loop in ("dp", "fsdp-told")
        for name in ("adamw", "optax_muon", "muon", "shampoo-256", "soap-256")
    ),
    *(
        Case("gpt-small", "update", "v5e-1", name)
        for name in ("adamw", "optax_muon", "shampoo-256", "soap-256", "kfac")
    ),
    *(
        Case("gpt-124m", "update", "v5e-1", name)
        for name in ("adamw", "muon", "shampoo-768", "small_shampoo-768", "soap-768", "small_soap-768", "kfac")
    ),
    *(Case("gpt-124m", "fsdp-told", "v5e-8", name) for name in ("adamw", "optax_muon", "muon", "shampoo-768")),
    *(Case("gpt-124m", "dp", "v5e-8", name) for name in ("adamw", "optax_muon", "muon")),
    *(
        Case("gpt-124m-16k", "fsdp-told", "v5e-8", name)
        for name in ("adamw", "optax_muon", "muon", "shampoo-768", "soap-768", "kfac")
    ),
)
QUICK = (
    *(Case("gpt-small", "dp", "v5e-8", name) for name in ("adamw", "shampoo-256", "soap-256")),
    *(Case("gpt-small", "update", "v5e-1", name) for name in ("shampoo-256", "soap-256")),
)
