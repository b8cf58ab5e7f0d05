#!/usr/bin/env bash
# What `make demo` does once data/demo.h5 is there: search, confirmation, report, all in runs/demo.
set -euo pipefail
cd "$(dirname "$0")"

rm -rf runs/demo
ups search demo --out runs/demo
ups trials runs/demo --top 5
ups promote runs/demo --out runs/demo/golden.yaml
ups report runs/demo
echo "golden config: runs/demo/golden.yaml   report: runs/demo/report.html"
