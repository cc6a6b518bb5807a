*** Settings ***
Documentation       An operator takes this release back.

Resource            resources/database.resource

Suite Setup         Choose An Engine
Suite Teardown      Forget Databases
Test Teardown       Throw Database Away


*** Test Cases ***
Up And Down Again Is Where It Began
    Start With What The Former Release Wrote
    Upgrade To    head
    Downgrade To    ${FORMER}
    Nothing Should Have Changed

Down And Up Again Is Where It Was
    Start With The Deployed Database
    Upgrade To    head
    Store Plans    profile=cautious
    Remember
    Downgrade To    ${FORMER}
    Upgrade To    head
    Nothing Should Have Changed

The Former Release Can Read What It Finds
    Start With The Deployed Database
    Upgrade To    head
    Store Plans    profile=trusted
    Downgrade To    ${FORMER}
    Database Should Be At    ${FORMER}
    Former Release Should Read Every Plan

Profiles On Record Survive
    Start With An Empty Database
    Upgrade To    head
    Store Plans    profile=cautious
    Downgrade To    ${FORMER}
    Upgrade To    head
    Every Plan Should Have On Record    cautious

Plans Are Not Dropped By Mistake
    Start With The Deployed Database
    Run Command    alembic downgrade base    ${URL}
    Command Should Be Refused    holds 2000 rows    -x drop-plans=yes    nothing was changed
    Database Should Be At    ${FORMER}
    Only Should Have Changed

Plans Are Dropped On Demand
    Start With An Empty Database
    Upgrade To    head
    Store Plans    profile=cautious
    Run Command    alembic -x drop-plans=yes downgrade base    ${URL}
    Command Should Succeed
    Database Should Have No Plans Table

A Database Without Plans Goes Back To Nothing
    Start With An Empty Database
    Upgrade To    head
    Downgrade To    base
    Database Should Have No Plans Table
