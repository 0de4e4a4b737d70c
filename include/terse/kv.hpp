// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <terse/kv/column_sums.hpp>
#include <terse/kv/compact.hpp>
#include <terse/kv/evict.hpp>
#include <terse/kv/h2o.hpp>
#include <terse/kv/key_norm.hpp>
#include <terse/kv/rotate.hpp>
#include <terse/kv/snapkv.hpp>
#include <terse/kv/streaming_llm.hpp>
#include <terse/kv/tova.hpp>
