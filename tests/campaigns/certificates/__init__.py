"""Certificates of many sites, and of mutants that must have none.

    python -m tests.campaigns.certificates models models/*.onnx
    python -m tests.campaigns.certificates zoo --names bert,llama --exporter dynamo
    python -m tests.campaigns.certificates matrix --names llama,gpt2 --opsets 11,17
    python -m tests.campaigns.certificates spellings --count 2000 --seed 1 --jobs 2
    python -m tests.campaigns.certificates mutants models/*.onnx

`models`: every site of some files. `zoo`: every site of exports of tests/zoo, both exporters, all
architectures where none are named. `matrix`: those of models/zoo.py, at each opset. `spellings`: legal cases of tests/fuzz. `mutants`: fused models
with a number that is wrong, those of tests/mutants and those of the last bit. Each prints how many
sites are certified, with how many certificates, and which are not and why; the exit code is 1 when
a site has no certificate, or a mutant has one.
"""
