// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/pool/average.hpp>
#include <terse/pool/unshuffle.hpp>
