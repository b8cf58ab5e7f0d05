#!/usr/bin/env bash
# What `make demo` does: data, search, confirmation, report. Everything it writes lies in data/demo.h5 and runs/demo.
set -euo pipefail
cd "$(dirname "$0")"

ups data generate burgers --nu 0.01 --trajectories 224 --cells 64 --frames 20 --dt 0.05 --oversample 4 --out data/demo.h5
rm -rf runs/demo
ups search demo --out runs/demo
ups trials runs/demo
ups promote runs/demo --out runs/demo/golden.yaml
ups report runs/demo
echo "golden config: runs/demo/golden.yaml   report: runs/demo/report.html"
