"""Which file of a repository is meant, and what else it offers."""

from __future__ import annotations

import shlex

from r1local.catalog import Catalog
from r1local.errors import NotOffered, suggest
from r1local.hub.names import Reference
from r1local.hub.repository import Offer, Repository
from r1local.names import quantization_in
from r1local.terminal import clean_line
from r1local.units import amount

_MOST_LISTED = 40


def choose_offer(repository: Repository, reference: Reference, catalog: Catalog) -> Offer:
    """The one offer that is meant. Raises NotOffered with the list of what there is."""
    offers = repository.offers()
    if reference.file:
        return _single_file(repository, reference, offers)
    if not offers:
        raise NotOffered(
            f"{repository.id} has no GGUF file.", "r1local runs .gguf files; look for a repository that ends in -GGUF."
        )
    if reference.from_catalog and reference.model is not None:
        patterns = [source.file for source in reference.model.gguf]
        offers = [offer for offer in offers if any(_is_named_like(offer, pattern) for pattern in patterns)] or offers
    wanted = reference.quantization
    if not wanted:
        if len(offers) == 1:
            return offers[0]
        wanted = reference.model.recommended if reference.model else ""
        if not wanted:
            raise NotOffered(f"{repository.id} offers {len(offers)} models.", _listing(repository, offers))
    found = [offer for offer in offers if offer.quantization == wanted.upper()]
    if not found:
        # Q4_K_XL is as good a name for UD-Q4_K_XL where there is only that.
        found = [offer for offer in offers if offer.quantization.removeprefix("UD-") == wanted.upper()]
    if len(found) == 1:
        return found[0]
    if found:
        raise NotOffered(f"{repository.id} has {wanted} more than once.", _listing(repository, found, by_file=True))
    near = suggest(wanted, [offer.quantization for offer in offers])
    raise NotOffered(
        f"{repository.id} has no {clean_line(wanted)}." + (f" Did you mean {near}?" if near else ""),
        _listing(repository, offers),
    )


def _single_file(repository: Repository, reference: Reference, offers: list[Offer]) -> Offer:
    for offer in offers:
        if any(file.name == reference.file for file in offer.files):
            return offer  # of a split model every part is wanted
    file = next((file for file in repository.files if file.name == reference.file), None)
    if file is not None and file.name.lower().endswith(".gguf"):
        return Offer(quantization_in(file.name), (file,))
    if file is not None:
        raise NotOffered(f"{clean_line(file.name)} is not a GGUF file.", "r1local runs .gguf files.")
    near = suggest(reference.file, [file.name for file in repository.files])
    raise NotOffered(
        f"{repository.id} has no file {clean_line(reference.file)}.",
        f"Did you mean {clean_line(near)}?" if near else _listing(repository, offers, by_file=True),
    )


def _is_named_like(offer: Offer, pattern: str) -> bool:
    head = pattern.partition("{quant}")[0]
    return offer.name.rpartition("/")[2].lower().startswith(head.lower())


def _listing(repository: Repository, offers: list[Offer], *, by_file: bool = False) -> str:
    """The offers a line each, the way to type them first."""
    labels = [offer.quantization for offer in repository.offers()]
    lines = []
    for offer in offers[:_MOST_LISTED]:
        alone = offer.quantization and labels.count(offer.quantization) == 1 and not by_file
        name = (
            f"{repository.id}:{offer.quantization}"
            if alone
            else shlex.quote(f"{repository.id}/{clean_line(offer.name)}")
        )
        parts = f", {len(offer.files)} parts" if len(offer.files) > 1 else ""
        lines.append(f"  r1local pull {name}   {amount(offer.size)}{parts}")
    if len(offers) > _MOST_LISTED:
        lines.append(f"  ... and {len(offers) - _MOST_LISTED} more")
    return "\n".join(["Choose one:", *lines]) if lines else "It has no GGUF file."
