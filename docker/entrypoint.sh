#!/bin/sh
# What every image runs: TGI's launcher with TGI's flags and variables.
#
#   IMAGE --model-id org/name        serves, as TGI's images do
#   IMAGE serve                      the same on port 8080, as SageMaker starts images
#   IMAGE tgi backends               any other command of ours
set -eu

case "${1:-}" in
  tgi | text-generation-*)
    exec "$@"
    ;;
  serve)
    shift
    export PORT=8080
    ;;
esac
exec text-generation-launcher "$@"
