#include <iostream>

#include "cli/program.hpp"

int main(int argc, char** argv) { return cli::program(argc, argv, std::cout, std::cerr); }
