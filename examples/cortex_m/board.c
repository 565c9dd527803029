/* Startup and debugger's console of a Cortex-M: vectors, FPU, SysTick, semihosting. Registers are those of the
architecture, the same on every Cortex-M7 and M55; memory is that of the linker script. */

#include "board.h"

#define CPACR (*(volatile uint32_t *)0xE000ED88u)
#define SYST_CTRL (*(volatile uint32_t *)0xE000E010u)
#define SYST_RELOAD (*(volatile uint32_t *)0xE000E014u)
#define SYST_VALUE (*(volatile uint32_t *)0xE000E018u)
#define SYST_MOST 0x00FFFFFFu
#define PAINT 0xA5C3A5C3u
/* Words below the stack pointer that painting leaves alone: this function may still save registers there. */
#define MARGIN 32

enum { SYS_WRITE0 = 0x04, SYS_EXIT_EXTENDED = 0x20 };

/* Of the linker script. */
extern uint32_t board_stack_limit[], board_stack_top[], board_data[], board_data_end[], board_bss[], board_bss_end[];
extern const uint32_t board_data_stored[];

int main(void);
void board_reset(void);

static volatile uint32_t wraps;

static int semihosting(int operation, const void *parameter) {
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = parameter;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void board_print(const char *text) {
    semihosting(SYS_WRITE0, text);
}

void board_exit(int code) {
    const uint32_t block[2] = {0x20026u /* the program ended by itself */, (uint32_t)code};
    semihosting(SYS_EXIT_EXTENDED, block);
    for (;;) {
    }
}

/* Not inlined: the FPU must be on before the first instruction that needs it. */
__attribute__((noinline)) static void begin(void) {
    const uint32_t *stored = board_data_stored;
    for (volatile uint32_t *place = board_data; place < board_data_end;) {
        *place++ = *stored++;
    }
    for (volatile uint32_t *place = board_bss; place < board_bss_end;) {
        *place++ = 0;
    }
    board_exit(main());
}

__attribute__((noreturn)) void board_reset(void) {
    CPACR |= 0xFu << 20; /* coprocessors 10 and 11: floating point, and vectors where there are any */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
    begin();
    for (;;) {
    }
}

static void on_fault(void) {
    board_print("a fault: the processor stopped\n");
    board_exit(1);
}

static void on_tick(void) {
    wraps++;
}

typedef void (*handler)(void);

typedef struct vector_table {
    uint32_t *stack;
    handler handlers[15]; /* of exceptions 1 to 15 */
} vector_table;

__attribute__((section(".vectors"), used)) static const vector_table vectors = {
    board_stack_top,
    {board_reset, on_fault, on_fault, on_fault, on_fault, on_fault, on_fault, on_fault, on_fault, on_fault, on_fault,
     on_fault, on_fault, on_fault, on_tick},
};

void board_start_clock(void) {
    SYST_CTRL = 0;
    wraps = 0;
    SYST_RELOAD = SYST_MOST;
    SYST_VALUE = 0;
    SYST_CTRL = 7; /* on, with an interrupt at 0, from the processor's clock */
}

uint64_t board_ticks(void) {
    uint32_t before, value;
    do {
        before = wraps;
        value = SYST_VALUE;
    } while (before != wraps);
    return (uint64_t)before * (SYST_MOST + 1u) + (SYST_MOST - value);
}

static uint32_t *stack_pointer(void) {
    uint32_t *place;
    __asm__ volatile("mov %0, sp" : "=r"(place));
    return place;
}

__attribute__((noinline)) void board_paint_stack(void) {
    uint32_t *end = stack_pointer() - MARGIN;
    for (volatile uint32_t *place = board_stack_limit; place < end;) {
        *place++ = PAINT;
    }
}

size_t board_deepest_stack(void) {
    const uint32_t *place = board_stack_limit;
    while (place < board_stack_top && *place == PAINT) {
        place++;
    }
    return (size_t)(board_stack_top - place) * sizeof *place;
}
