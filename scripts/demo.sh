# Sourced by trainAndTest.sh when it is called without arguments: the demo.

DEMO_BACKBONE=(--model ViT-demo --model-config configs --pretrained none --layers 1 2 --image-size 192 --precision fp32)
name_arguments demo cpu 1 mul 13 11 0.5 14 1 "${DEMO_BACKBONE[@]}"
# Small datasets want small batches; with one reference in both, discrepancies are as large in training as in the test.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # tensors this small gain nothing from more threads, and lose much on a busy machine
TRAIN_ARGS="--epochs 12 --batch-size 2 --k-shot 1 --augmentation none ${TRAIN_ARGS-}"

cat <<'EOT'
The demo: two small datasets are rendered, the heads are trained on each and tested on the other, with NAM and LFE.
The backbone is a small ViT with UNTRAINED random weights, so that nothing has to be downloaded: its patch features are random
projections. Everything else is the real thing; with CLIP's weights the same commands give the paper's kind of results.

EOT
"$PYTHON" data/demo.py data/demo
train_on mvtec data/demo/mvtec
train_on visa data/demo/visa
test_on visa data/demo/visa
test_on mvtec data/demo/mvtec

echo
for dataset in mvtec visa; do
    folder=results/demo/$dataset/1shot/seed14/mul_13_11_0.5
    echo "Trained on the other dataset, tested on the rendered $dataset dataset:"
    echo
    cat "$folder/table.md"
    echo
    echo "Pictures and report: $PWD/$folder/report.html"
    echo
done
[ "$PYTHON" != .venv/bin/python ] || echo "The packages are in .venv: before python commands of your own, source .venv/bin/activate"
