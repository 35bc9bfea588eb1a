"""The simulated world: the real command against the real simulator, over a simulated clock, network and disk.

history     what happens, as data: one small value, as JSON too
generate    a history out of a seed
loop        an event loop whose time is made up
network     connections within this process: delays, cuts, doubled answers
disk        what is durable, what is torn, what is full
server      the simulator, its weather, and the ledger of what it executed
process     one invocation of the command, which can be killed
run         plays a history
oracle      says what is wrong, by the files and the server's ledger alone
shrink      the shortest history that still goes wrong
story       tells a history
mutants     known faults, to see that they are found
coverage    which rules were reached
"""
