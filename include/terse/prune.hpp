// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/prune/divprune.hpp>
#include <terse/prune/fastv.hpp>
#include <terse/prune/top_k.hpp>
