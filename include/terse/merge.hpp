// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/merge/tome.hpp>
#include <terse/merge/tome_kth.hpp>
