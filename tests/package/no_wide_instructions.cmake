# What must run on every x86-64 holds no instruction that came after SSE2.
# cmake -DOBJDUMP=<objdump> -DFILE=<object or library> -DSCRATCH=<file> [-DNM=<nm>] -P no_wide_instructions.cmake
# With NM, only the weak functions of FILE are meant: those that the linker may share with files built for less.

# Whatever starts with v is encoded as VEX or EVEX; the rest is SSE3 to SSE4.2, AVX-512's masks and what came with AVX2.
# (tzcnt is not here: compilers write it where it may run as bsf.)
set(later "v[a-z0-9]+" "k(and|or|xor|xnor|not|mov|add|shift|test|unpck|ortest)[a-z]*"
  "(haddp|hsubp|addsubp)[sd]|lddqu|movddup|movs[hl]dup"
  "pshufb|palignr|(pabs|psign)[bwd]|ph(add|sub)[a-z]*|pmaddubsw|pmulhrsw"
  "p?blend[a-z]*|ptest|round[ps][sd]|pm(in|ax)(sb|ud|uw|sd)|pmul(ld|dq)|pmov[sz]x[a-z]*"
  "p(ins|ext)r[bdq]|insertps|extractps|dpp[sd]|mpsadbw|packusdw|pcmp(gtq|eqq)|pcmp[ei]str[im]"
  "(crc32|popcnt|lzcnt)[bwlq]?|(andn|bextr|bzhi|pdep|pext|rorx|sarx|shlx|shrx|mulx)[lq]?")

# `count` instructions of FILE, and those of them that are `wide`.
function(disassemble)
  execute_process(COMMAND ${OBJDUMP} -d --no-show-raw-insn ${ARGN} ${FILE} OUTPUT_FILE ${SCRATCH}
    COMMAND_ERROR_IS_FATAL ANY)
  file(STRINGS ${SCRATCH} found REGEX "^ +[0-9a-f]+:")
  list(LENGTH found count)
  list(TRANSFORM found REPLACE "^ +[0-9a-f]+:[ \t]+([a-z0-9]+).*" "\\1")
  list(REMOVE_DUPLICATES found)
  set(wide "")
  foreach(pattern IN LISTS later)
    set(some ${found})
    list(FILTER some INCLUDE REGEX "^(${pattern})$")
    list(APPEND wide ${some})
  endforeach()
  set(count ${count} PARENT_SCOPE)
  set(wide "${wide}" PARENT_SCOPE)
endfunction()

disassemble()
if(count LESS 1000)
  message(FATAL_ERROR "${count} instructions in '${FILE}': not what was to be checked")
endif()
if(NOT DEFINED NM)
  if(wide)
    message(FATAL_ERROR "not for every x86-64: ${wide}")
  endif()
  message(STATUS "${count} instructions, none of them beyond SSE2")
  return()
endif()

if(NOT wide)
  message(FATAL_ERROR "no wide instruction at all in '${FILE}': not what was to be checked")
endif()
execute_process(COMMAND ${NM} ${FILE} OUTPUT_FILE ${SCRATCH} ERROR_QUIET COMMAND_ERROR_IS_FATAL ANY)
file(STRINGS ${SCRATCH} weak REGEX "^[0-9a-f]+ W ")
foreach(line IN LISTS weak)
  string(REGEX REPLACE ".* W " "" symbol "${line}")
  disassemble(--disassemble=${symbol})
  if(wide)
    message(FATAL_ERROR "${symbol} may be shared, and is not for every x86-64: ${wide}")
  endif()
endforeach()
list(LENGTH weak count)
message(STATUS "${count} weak functions, none of them beyond SSE2")
