"""Folders of onnxruntime-genai's builder, fused with --genai: python -m tests.campaigns.genai.

Small random models of Hugging Face architectures are built offline, each folder is fused into another
by `graphfuse fuse FOLDER -o OTHER --genai`, and 32 greedy tokens are compared: as built, fused with
graphfuse's kernels, and without. All of genai_config.json but the two names has to be as it was.
onnxruntime-genai is no package of the tests: it goes into a folder of its own, which is on the path
of child processes only. Exits with 1 where tokens differ.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = "onnxruntime-genai==0.18.0"
NAMES = ("Llama", "Qwen2", "Phi", "Gemma")
TYPES = ("int4", "fp32")
TOKENS = 32

MAKE = """
import sys, torch, transformers
from tokenizers import Tokenizer, models, pre_tokenizers
name, folder = sys.argv[1:]
torch.manual_seed(0)
config = getattr(transformers, name + "Config")(
    vocab_size=256, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=4 if name == "Phi" else 2, head_dim=32,
    max_position_embeddings=256, bos_token_id=254, eos_token_id=255, pad_token_id=255)
model = getattr(transformers, name + "ForCausalLM")(config).eval()
with torch.no_grad():
    for key, weight in model.named_parameters():
        # Larger than at the start of a training: else the logits are nearly one another's.
        weight.add_(0.2 * torch.randn_like(weight)) if "norm" in key else weight.mul_(6)
model.save_pretrained(folder)
words = {f"t{n}": n for n in range(254)} | {"<s>": 254, "</s>": 255}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="t0"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="t0", pad_token="</s>"
).save_pretrained(folder)
"""

GENERATE = """
import sys, onnxruntime_genai as genai
start, count = [254, 3, 17, 42, 99, 7], int(sys.argv[2])
model = genai.Model(sys.argv[1])
params = genai.GeneratorParams(model)
params.set_search_options(max_length=len(start) + count, min_length=len(start) + count)
generator = genai.Generator(model, params)
generator.append_tokens(start)
while not generator.is_done():
    generator.generate_next_token()
print(*generator.get_sequence(0)[len(start):])
"""


def child(packages: Path, *words: str) -> str:
    """What a Python process with the package prints."""
    path = os.pathsep.join((str(packages), os.environ.get("PYTHONPATH", "")))
    env = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", *words]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr.strip().splitlines()[-1])
    return run.stdout.strip()


def build(packages: Path, name: str, kind: str, folder: Path) -> Path:
    """A folder with a model as the builder writes it."""
    source, built = folder / f"{name}-source", folder / f"{name}-{kind}"
    if not source.exists():
        child(packages, "-c", MAKE, name, str(source))
    options = ["-i", str(source), "-o", str(built), "-p", kind, "-e", "cpu"]
    options += ["-c", str(folder / "cache")]
    child(packages, "-m", "onnxruntime_genai.models.builder", *options)
    return built


def fuse(built: Path, output: Path, *words: str) -> int:
    """Fuse a folder into another by the command line; gives the number of fused sites."""
    command = [sys.executable, "-m", "graphfuse", "fuse", str(built), "-o", str(output), *words]
    run = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr.strip())
    return sum(len(model["fused"]) for model in json.loads(run.stdout)["models"])


def plainly(output: Path) -> None:
    """Let a folder's sessions be without the kernels, as users have it who leave them out."""
    path = output / "genai_config.json"
    config = json.loads(path.read_text())
    del config["model"]["decoder"]["session_options"]["custom_ops_library"]
    path.write_text(json.dumps(config, indent=4))


def compare(packages: Path, built: Path) -> tuple[bool, str]:
    """Whether all give the same tokens, and the line that says so."""
    wanted = child(packages, "-c", GENERATE, str(built), str(TOKENS))
    before = json.loads((built / "genai_config.json").read_text())
    output = built.with_name(f"{built.name}-fused")
    fused = fuse(built, output, "--genai")
    after = json.loads((output / "genai_config.json").read_text())
    decoder = after["model"]["decoder"]
    names = decoder["filename"], decoder["session_options"].pop("custom_ops_library")
    decoder["filename"] = before["model"]["decoder"]["filename"]
    same = before == after and all((output / name).is_file() for name in names)
    fast = child(packages, "-c", GENERATE, str(output), str(TOKENS))
    plainly(output)
    plain = child(packages, "-c", GENERATE, str(output), str(TOKENS))
    count = len(set(wanted.split()))
    words = [f"{fused} fused, {count} different tokens"]
    words += [f"the rest of genai_config.json is {'as it was' if same else 'CHANGED'}"]
    words += [f"{'same' if wanted == fast else 'OTHER'} tokens with the kernels"]
    words += [f"{'same' if wanted == plain else 'OTHER'} without"]
    return same and wanted == plain == fast, ", ".join(words)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.genai", description=__doc__)
    parser.add_argument("--names", nargs="+", default=NAMES, help="such as Llama Phi")
    parser.add_argument("--types", nargs="+", default=TYPES, help="int4, fp32")
    given = parser.parse_args(arguments)
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        packages, folder = Path(temporary, "packages"), Path(temporary, "models")
        install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages)]
        subprocess.run([sys.executable, *install, PACKAGE], check=True)
        folder.mkdir()
        for name in given.names:
            for kind in given.types:
                passed, text = compare(packages, build(packages, name, kind, folder))
                failed |= not passed
                print(f"{name}, {kind}: {text}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
