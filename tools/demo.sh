#!/bin/sh
# From nothing to a three-dimensional diffuse map: simulated stills whose truth is known, dials.stills_process, and
# the five commands. Each command is printed before it runs. DEMO_OUTPUT names the folder (demo_output).
set -eu
cd "$(dirname "$0")/.."
root=$PWD
output=${DEMO_OUTPUT:-demo_output}
PATH="$root/.venv/bin:$PATH"
export PATH
phil="$root/phil/demo"

# The command as a user types it, with patterns for the lists of files.
spell() {
    printf '%s' "$*" | sed -E -e "s#$root/##g" \
        -e 's#(images|blanks)/[a-z]+_[0-9]+\.cbf( \1/[a-z]+_[0-9]+\.cbf)*#\1/*.cbf#g' \
        -e 's#\./[a-z]+-[0-9]+_integrated\.(expt|refl)( \./[a-z]+-[0-9]+_integrated\.\1)*#*_integrated.\1#g'
}
step() { printf '\n$ %s\n' "$(spell "$@")"; "$@" > command.out 2>&1 || { tail -n 20 command.out; exit 1; }; }
show() { step "$@"; tail -n "$lines" command.out; }

rm -rf "$output"
mkdir -p "$output"
cd "$output"
started=$(date +%s)

step diffuse.simulate "$phil/simulate.phil" mp.nproc=2
step python -m diffuse_dials.adapters.stills_process images/*.cbf stills_process.phil mp.nproc=2
step dials.import blanks/*.cbf convert_sequences_to_stills=True output.experiments=blank.expt
lines=14
show diffuse.make_mask ./*_integrated.expt make_mask.phil output.png=diffuse.make_mask.png mp.nproc=2
# extract writes every pixel: here every third of both directions, to be looked at. grid then reads the images itself.
mkdir -p pixels
step diffuse.extract ./*_integrated.expt ./*_integrated.refl "$phil/extract.phil" mp.nproc=2 \
    output.experiments=pixels/extracted.expt output.reflections=pixels/extracted.refl output.json=pixels/extracted.json \
    output.radial_totals=pixels/radial_totals.refl output.stills=pixels/stills.csv
step diffuse.grid ./*_integrated.expt ./*_integrated.refl "$phil/grid.phil" mp.nproc=2
lines=20
show diffuse.scale gridded.expt gridded.refl "$phil/scale.phil"
lines=14
show diffuse.absolute merged.expt merged.refl scaled.expt radial_totals.refl "$phil/absolute.phil"
lines=17
show diffuse.compare absolute.refl truth.refl d_max=10 d_min=1.8 stills.scaled=stills.csv stills.truth=truth_stills.csv
step diffuse.report ./*_integrated.expt ./*_integrated.refl gridded.expt gridded.refl scaled.expt scaled.refl \
    absolute.expt absolute.refl
rm -f command.out
printf '\n%s s. Look at %s/diffuse.report.html (the whole run) and diffuse.compare.png (the map beside the truth).\n' \
    $(($(date +%s) - started)) "$output"
