#!/usr/bin/env bash
# The whole way on made-up data: a source, the three commands, a score. Minutes on two CPU cores.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-demo}
unset nnUNet_raw nnUNet_preprocessed nnUNet_results # the demo keeps to its own folder
began=$(date +%s)

step() {
  echo
  echo "== $1"
  shift
  echo "\$ $*"
  "$@"
}

rm -rf "$folder"
mkdir -p "$folder"
cd "$folder"
step "A synthetic source in the competition's layout: 8 patients, small and easy volumes" \
  gi2nnunet phantom --out source.zip --patients 8 --days 2 --size 96x96x40@3 --easy --seed 1
step "To an nnU-Net raw dataset; one patient stays out as the test set" \
  gi2nnunet convert source.zip
# nnU-Net's own Adam trainer learns this easy task in 320 batches; its SGD would need thousands.
step "Plan, preprocess and train 2d and 3d_fullres: a small network, a few minutes" \
  gi2nnunet train --fold all --preset tiny \
  --trainer nnUNetTrainerAdam --lr 0.006 --epochs 8 --iterations 40
step "Predict the held-out patient and score" \
  gi2nnunet predict-and-score --nifti

# A demo that does not learn has failed.
python - gi2nnunet-workspace/predictions/*/*/score-per-class.json <<'END'
import json, sys
dice = json.load(open(sys.argv[1]))["dice"]
if not dice >= 0.8:
    sys.exit(f"the demo reached a mean Dice of {dice:.3f}; expected at least 0.80")
END
echo
echo "Done in $(($(date +%s) - began)) s. Everything is in $PWD/gi2nnunet-workspace."
