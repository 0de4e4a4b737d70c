// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/budget/budget.hpp>
#include <terse/budget/schedule.hpp>
#include <terse/core/version.hpp>
#include <terse/kv.hpp>
#include <terse/merge.hpp>
#include <terse/move/apply.hpp>
#include <terse/move/compose.hpp>
#include <terse/pool.hpp>
#include <terse/prune.hpp>
