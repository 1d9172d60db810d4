"""Pre-train the text tower as a tag auto-encoder: from a caption, however it is worded, back to the drawing's tags.

The tower (CLIPTextModel) and the UNet's pooling of it (`add_embedding`) are trained through a linear head that is
thrown away. Two minutes of this replace hours in which the UNet would have to teach language. Knows no pictures.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import TextTimeEmbedding
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from studio.pretraining.captions import ALIASES, EMOTION_WORDS, GENDER_WORDS, STYLE_WORDS, caption

WIDTH = 192
TIME_WIDTH = 256  # four times the UNet's first width
POOL_HEADS = 64  # diffusers' default, which ControlNetModel.from_unet silently uses too


def new_tower(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text model of two layers."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=tokenizer.model_max_length, projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id, hidden_act="gelu",
        )
    )  # fmt: skip


def tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids (n, 77), padded and cut like in a Stable Diffusion pipeline."""
    return tokenizer(
        captions, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    ).input_ids


def wordings(tag: str, meta: dict[str, Any]) -> tuple[str, ...]:
    """Every way in which `caption` may say a tag of this drawing."""
    if tag == meta["emotion"]:
        return (tag, *EMOTION_WORDS[tag])
    if tag == f"{meta['style']} style":
        return (tag, *STYLE_WORDS[meta["style"]])
    return (tag, *GENDER_WORDS.get(tag, ()), *ALIASES.get(tag, ()))


def target(text: str, meta: dict[str, Any], index: dict[str, int]) -> torch.Tensor:
    """1 for the drawing's tags that the caption says in one way or another, (tags,)."""
    said = set(text.split(", "))
    row = torch.zeros(len(index))
    for tag in meta["tags"]:
        if any(w in said or (text.startswith("a ") and w in text) for w in wordings(tag, meta)):
            row[index[tag]] = 1
    return row


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    metas = [m for path in sorted(args.data.glob("m*.json")) for m in json.loads(path.read_text(encoding="utf-8"))]
    index = {tag: i for i, tag in enumerate(sorted({t for m in metas for t in m["tags"]}))}
    tokenizer = CLIPTokenizer.from_pretrained(args.tokenizer)
    tower, pooling = new_tower(tokenizer), TextTimeEmbedding(WIDTH, TIME_WIDTH, num_heads=POOL_HEADS)
    head = torch.nn.Linear(TIME_WIDTH, len(index))
    parameters = [*tower.parameters(), *pooling.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1.5e-3, betas=(0.9, 0.99), weight_decay=1e-3)
    started, step = time.process_time(), 0  # processor time: on a busy machine it takes longer, not shorter
    while (share := (time.process_time() - started) / (args.minutes * 60)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min(1, (step + 1) / 30) * min(1, 2 * (1 - share) + 0.02)
        batch = [metas[rng.randrange(len(metas))] for _ in range(args.batch)]
        texts = [caption(m["tags"], m, rng) for m in batch]
        y = torch.stack([target(text, m, index) for text, m in zip(texts, batch, strict=True)])
        logits = head(pooling(tower(tokens(tokenizer, texts)).last_hidden_state))
        loss = F.binary_cross_entropy_with_logits(logits, y) * len(index) / 20
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 100 == 0:
            hit = ((logits > 0) & (y > 0)).sum().item()
            print(
                f"step {step}, {share:.0%}, loss {loss.item():.3f}, recall {hit / max(1, y.sum().item()):.3f}, "
                f"precision {hit / max(1, (logits > 0).sum().item()):.3f}",
                flush=True,
            )
        step += 1
    tower.save_pretrained(args.out / "text_encoder")
    save_file({name: t.contiguous() for name, t in pooling.state_dict().items()}, args.out / "pooling.safetensors")


def cli() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of painted shards (their m*.json)")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=4, help="processor minutes")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args())


if __name__ == "__main__":
    cli()
