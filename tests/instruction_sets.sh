#!/usr/bin/env bash
# Run the numeric tests once per instruction set, with the kernels that other CPUs use: tests/instruction_sets.sh
#
# Arguments go to pytest in place of the default paths: tests/instruction_sets.sh tests/policy -x
# ATEN_CPU_CAPABILITY chooses PyTorch's kernels, MKL_ENABLE_INSTRUCTIONS (or MKL_CBWR=COMPATIBLE, the path of CPUs of
# other makers) those of matrix products, ONEDNN_MAX_CPU_ISA those of convolutions. A CPU without AVX-512 falls back to
# what it has. torch.compile is off in the first line: with that value it generates vector code that does not compile.
# The whole takes about as many times one run of these tests as there are lines in `settings`.
set -u
cd "$(dirname "$0")/.."

settings=(
  "ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41 OMP_NUM_THREADS=1 TORCHDYNAMO_DISABLE=1"
  "ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=1"
  "ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=2"
  "ATEN_CPU_CAPABILITY=avx512 MKL_ENABLE_INSTRUCTIONS=AVX512 ONEDNN_MAX_CPU_ISA=AVX512_CORE OMP_NUM_THREADS=2"
)
paths=(tests/helpers tests/policy tests/rewards tests/rl/learner tests/rl/sft tests/rl/benchmarks
  tests/rl/test_training_knobs.py tests/rl/rollout/test_oversampling.py)
[ $# -gt 0 ] && paths=("$@")

failed=0
for setting in "${settings[@]}"; do
  echo "== $setting"
  # shellcheck disable=SC2086  # a setting is several words
  env $setting .venv/bin/python -m pytest -q "${paths[@]}" || failed=1
done
exit $failed
