"""optimum's command line, from an export to fused models that generate: python -m tests.campaigns.optimum.

A small random T5 is exported by `optimum-cli export onnx` (encoder, decoder, decoder with past, and
both merged in an If), fused by `optimum-cli onnxruntime graphfuse`, and loaded by ORTModelForSeq2SeqLM
from the fused files, merged and in two. The tokens that each generates, greedily and with four
beams, are compared with those of the export and of PyTorch. optimum-onnx wants a transformers before
5, the tests one after: its packages go into a folder of their own, which is before the others on the
path of child processes. Exits with 1 where tokens differ.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import ROOT

PACKAGES = (
    "optimum==2.1.0",
    "optimum-onnx==0.1.0",
    "transformers==4.57.6",
    "tokenizers==0.22.2",
    "huggingface_hub==0.36.2",
    # What they need and the tests do not have.
    "requests",
    "urllib3",
    "charset-normalizer",
    "certifi",
    "idna",
)

MAKE = """
import sys, torch, transformers
from tokenizers import Tokenizer, models, pre_tokenizers
torch.manual_seed(0)
config = transformers.T5Config(
    vocab_size=96, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
    decoder_start_token_id=0, eos_token_id=1, pad_token_id=0, tie_word_embeddings=False)
model = transformers.T5ForConditionalGeneration(config).eval()
with torch.no_grad():
    for key, weight in model.named_parameters():
        # Larger than at the start of a training: else the logits are nearly one another's.
        weight.add_(0.2 * torch.randn_like(weight)) if "norm" in key else weight.normal_(0, 0.2)
model.save_pretrained(sys.argv[1])
words = {f"t{n}": n for n in range(96)}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="t2"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, eos_token="t1", unk_token="t2", pad_token="t0"
).save_pretrained(sys.argv[1])
"""

COMPARE = """
import sys, transformers
from optimum.onnxruntime import ORTModelForSeq2SeqLM
source, export, fused = sys.argv[1:]
ids = transformers.AutoTokenizer.from_pretrained(fused)("t5 t17 t42 t9 t77 t30", return_tensors="pt")
ids.pop("token_type_ids", None)

def loaded(folder, end, merged):
    names = {"encoder_file_name": f"encoder_model{end}.onnx"}
    if merged:
        names["decoder_file_name"] = f"decoder_model_merged{end}.onnx"
    else:
        names["decoder_file_name"] = f"decoder_model{end}.onnx"
        names["decoder_with_past_file_name"] = f"decoder_with_past_model{end}.onnx"
    model = ORTModelForSeq2SeqLM.from_pretrained(
        folder, **names, use_merged=merged, provider="CPUExecutionProvider")
    assert bool(model.decoder.is_merged) == merged, names
    return model

failed = False
for beams in (1, 4):
    def tokens(model):
        return model.generate(
            **ids, num_beams=beams, do_sample=False, min_new_tokens=24, max_new_tokens=24)[0].tolist()
    wanted = tokens(transformers.T5ForConditionalGeneration.from_pretrained(source).eval())
    for merged in (True, False):
        found = [tokens(loaded(f, e, merged)) for f, e in ((export, ""), (fused, "_graphfuse"))]
        failed |= not wanted == found[0] == found[1]
        print(f"{beams} beams, {'merged' if merged else 'two decoders'}: {len(set(wanted))} different "
              f"tokens of {len(wanted)}, {'same' if found[0] == found[1] else 'OTHER'} as the export, "
              f"{'same' if wanted == found[1] else 'OTHER'} as PyTorch", flush=True)
sys.exit(failed)
"""

CLI = ("-m", "optimum.commands.optimum_cli")


def install(folder: Path, packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Install packages into a folder; gives the environment of processes that are to have them."""
    command = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([sys.executable, *command, *packages], check=True)
    path = os.pathsep.join((str(folder), str(ROOT)))
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONPATH": path}
    return {**os.environ, **offline, "TRANSFORMERS_VERBOSITY": "error"}


def main() -> int:
    """The command line."""
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        env = install(home / "packages")

        def python(*words: str, check: bool = True) -> int:
            command = [sys.executable, "-W", "ignore", *words]
            return subprocess.run(command, env=env, cwd=home, check=check).returncode

        python("-m", "graphfuse.integrations.optimum")
        python("-c", MAKE, "t5")
        task = ["--task", "text2text-generation-with-past"]
        python(*CLI, "export", "onnx", "--model", "t5", *task, "export")
        python(*CLI, "onnxruntime", "graphfuse", "--onnx_model", "export", "-o", "fused")
        code = python("-c", COMPARE, "t5", "export", "fused", check=False)
        python("-m", "graphfuse.integrations.optimum", "--remove")
        # The others are there with it and without.
        python(*CLI, "onnxruntime", "--help")
        return code


if __name__ == "__main__":
    sys.exit(main())
