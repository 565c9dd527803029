/* What main.c needs of a board. */

#ifndef BOARD_H
#define BOARD_H

#include <stddef.h>
#include <stdint.h>

/* Writes a string to the debugger's console. */
void board_print(const char *text);

/* Ends the program with an exit code, as far as a board can. */
void board_exit(int code);

/* Starts the clock from 0. */
void board_start_clock(void);

/* Ticks since then, BOARD_CLOCK_HZ of them in a second. */
uint64_t board_ticks(void);

/* Fills the part of the stack that is not in use with a pattern. */
void board_paint_stack(void);

/* Bytes of the stack, from its top, that were in use at any time since it was painted. */
size_t board_deepest_stack(void);

/* In which part of memory an array lies that is too large for the fastest one; see sections.ld. */
#define BOARD_WORK __attribute__((section(".work")))

#endif
