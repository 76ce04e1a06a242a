"""What a model's layers remember of the tokens before: known from its configuration, before anything is loaded."""

from __future__ import annotations

from typing import Any

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionCacheLayerMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from scorl.errors import UserError

try:
    from transformers.cache_utils import DummyLayer
except ImportError:  # before 5.21 a layer that keeps nothing was a recurrent one without a state
    from transformers.cache_utils import LinearAttentionLayer as DummyLayer

__all__ = ["DummyLayer", "check_layers", "is_recurrent"]


def is_recurrent(config: Any) -> bool:
    """Whether a model has layers that keep a state in place of keys and values, or beside them."""
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in DynamicCache(config=config).layers)


def check_layers(config: Any, name: str) -> None:
    """Refuse a model whose layers remember what cannot be moved from one batch of rows to another.

    Raises:
        UserError: it keeps more than keys, values and the states of recurrent layers, or keeps them in its own way.
    """
    odd = _unknown_layers(config)
    if odd:
        raise UserError(
            f"{name}: layers of the kind {', '.join(sorted(odd))} keep more than keys and values or a recurrent state, "
            "so models of this type cannot be sampled here"
        )
    model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if getattr(model, "_is_stateful", False) and not is_recurrent(config):
        raise UserError(
            f"{name}: models of the type {config.model_type} keep their state outside of transformers' cache, so they "
            "cannot be sampled here"
        )


def _unknown_layers(config: Any) -> set[str]:
    """The kinds of layers that `scorl.engines.cache_layers` has no layer for."""
    kinds = getattr(config.get_text_config(decoder=True), "layer_types", None) or ()
    try:
        layers = DynamicCache(config=config).layers
    except (KeyError, AttributeError, ValueError) as error:  # a kind that transformers itself makes no such cache for
        return {str(error.args[0])}
    known = (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)
    odd = [
        place
        for place, layer in enumerate(layers)
        if type(layer) not in known and not isinstance(layer, LinearAttentionCacheLayerMixin)
    ]
    return {kinds[place] if len(kinds) == len(layers) else type(layers[place]).__name__ for place in odd}
