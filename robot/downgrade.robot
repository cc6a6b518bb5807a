*** Settings ***
Documentation       An operator downgrades to the former release.

Resource            resources/database.resource

Suite Setup         Choose An Engine
Test Teardown       Drop Database


*** Test Cases ***
Upgrade And Downgrade Change Nothing
    Start With The Deployed Database    rows=pure
    Upgrade To    head
    Downgrade To    ${FORMER}
    Nothing Should Have Changed

Downgrade And Upgrade Change Nothing
    Start With The Deployed Database
    Upgrade To    head
    Store Plans    profile=cautious
    Remember
    Downgrade To    ${FORMER}
    Former Release Should Read Every Plan
    Upgrade To    head
    Nothing Should Have Changed

Snapshots Survive
    Start With A New Database
    Store Plans    profile=cautious
    Downgrade To    ${FORMER}
    Database Should Be At    ${FORMER}
    Upgrade To    head
    Every Plan Should Have The Snapshot Of    cautious

Plans Are Not Dropped By Mistake
    Start With A New Database
    Store Plans    profile=cautious
    Run Command    alembic downgrade base    ${URL}
    Command Should Be Refused    holds 2 rows    -x drop-plans=yes
    Every Plan Should Have The Snapshot Of    cautious

Plans That Others Refer To Are Not Dropped
    Start With The Deployed Database
    Run Command    alembic -x drop-plans=yes downgrade base    ${URL}
    Command Should Be Refused    correction_attempts refer to v3_plans    nothing was changed
    Former Release Should Read Every Plan

Plans Are Dropped On Demand
    Start With A New Database
    Store Plans    profile=cautious
    Run Command    alembic -x drop-plans=yes downgrade base    ${URL}
    Command Should Succeed
    Database Should Hold Nothing

Database Without Plans Is Downgraded To Nothing
    Start With A New Database
    Downgrade To    base
    Database Should Hold Nothing
