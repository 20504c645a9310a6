"""The caption decoders by name."""

from trainables.parts.decoder import Decoder
from trainables.parts.recurrent import CELLS, RecurrentDecoder
from trainables.parts.transformer import TransformerDecoder


def build_decoder(
    name: str,
    *,
    width: int,
    words: int,
    max_tokens: int,
    embedding_width: int,
    hidden_width: int,
    attention_width: int,
    encoder_layers: int,
    decoder_layers: int,
    heads: int,
    feedforward_width: int,
    dropout: float,
    activation: str,
    positions: str,
    gradient_checkpointing: bool,
) -> Decoder:
    """A decoder for features of ``width`` and a vocabulary of ``words``; each kind takes what concerns it.

    Raises:
        NotFound: no decoder, activation or kind of positions has this name.
    """
    if name == "transformer":
        return TransformerDecoder(
            width=width,
            words=words,
            max_tokens=max_tokens,
            embedding_width=embedding_width,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            heads=heads,
            feedforward_width=feedforward_width,
            dropout=dropout,
            activation=activation,
            positions=positions,
            gradient_checkpointing=gradient_checkpointing,
        )
    return RecurrentDecoder(
        name,
        width=width,
        words=words,
        embedding_width=embedding_width,
        hidden_width=hidden_width,
        attention_width=attention_width,
        dropout=dropout,
        gradient_checkpointing=gradient_checkpointing,
    )


DECODERS = (*CELLS, "transformer")
