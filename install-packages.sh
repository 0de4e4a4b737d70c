#!/bin/sh
# Installs what building, testing and measuring terse takes on Debian 12. What is missing elsewhere, CMake fetches.
set -e
root=
[ "$(id -u)" = 0 ] || root=sudo
$root apt-get update -qq
$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
  ca-certificates g++ clang clang-format clang-tidy cmake git libclang-rt-dev libomp-dev ninja-build \
  catch2 libbenchmark-dev libcli11-dev libeigen3-dev libopenblas-dev libstb-dev libxsimd-dev nlohmann-json3-dev
# With --emulated, also what the preset `avx512-emulated` is made of.
if [ "${1-}" = --emulated ]; then
  $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libsimde-dev
fi
# With --neon, also the cross compiler and the emulator of the preset `neon`.
if [ "${1-}" = --neon ]; then
  $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends g++-aarch64-linux-gnu qemu-user
fi
# With --peers, also those libraries that the benchmark compares with if they are there; OpenBLAS is there already.
if [ "${1-}" = --peers ]; then
  $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libdnnl-dev libtorch-dev
fi
