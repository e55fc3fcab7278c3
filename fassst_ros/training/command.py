"""`fassst train RECIPE.yaml`: train a network as a recipe says."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `fassst train`."""
    parser.add_argument("recipe", type=Path, help="YAML recipe, see config/train_street.yaml")
    parser.add_argument(
        "--data-root", type=Path, default=Path(), help="folder that the recipe's paths start from"
    )
    parser.add_argument(
        "--run", type=Path, help="run folder; default runs/NAME. An existing one is continued"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that load and augment images")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of the training step; 0: all")
    parser.add_argument("--save-every", type=int, default=250, help="steps between checkpoints")


def run(args: argparse.Namespace) -> int:
    """Train; prints where the weights are and how to export them."""
    import torch

    from fassst_ros.training.loop import train
    from fassst_ros.training.options import load_recipe

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    recipe = load_recipe(args.recipe)
    if args.threads:
        torch.set_num_threads(args.threads)
    folder = args.run or Path("runs") / recipe.name
    weights = train(recipe, args.data_root, folder, workers=args.workers, save_every=args.save_every)
    print(f"trained weights: {weights}\nnext: fassst export {weights} --out models")
    return 0
