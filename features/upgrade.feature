@former_database
Feature: An upgrade brings the plans of the former release along
  Who deploys this release must find every plan that was there before, with
  the gaps filled that the former release left, and nothing else touched.

  Rule: Every plan gets the root of its tree

    Scenario: The former release did not know every root
      Given the former release left these plans
        | plan   | part of | tree  |
        | house  |         |       |
        | roof   | house   | house |
        | tiles  | roof    |       |
        | nails  | tiles   |       |
        | garden |         |       |
      When the database is upgraded
      Then these are the plans
        | plan   | part of | tree   |
        | house  |         | house  |
        | roof   | house   | house  |
        | tiles  | roof    | house  |
        | nails  | tiles   | house  |
        | garden |         | garden |

    Scenario: A root that is known is kept
      Given the former release left these plans
        | plan  | part of | tree  |
        | house |         |       |
        | shed  |         | house |
        | shelf | shed    |       |
      When the database is upgraded
      Then these are the plans
        | plan  | part of | tree  |
        | house |         | house |
        | shed  |         | house |
        | shelf | shed    | house |

    Scenario: A child that is older than its parent
      Given the former release left these plans
        | plan  | part of | tree |
        | tiles | roof    |      |
        | roof  | house   |      |
        | house |         |      |
      When the database is upgraded
      Then these are the plans
        | plan  | part of | tree  |
        | tiles | roof    | house |
        | roof  | house   | house |
        | house |         | house |

    @use.with_engine=sqlite
    Scenario: A parent that does not exist any more
      Given the former release left these plans
        | plan  | part of      | tree |
        | roof  | a lost house |      |
        | tiles | roof         |      |
      When the database is upgraded
      Then these are the plans
        | plan  | part of      | tree |
        | roof  | a lost house | roof |
        | tiles | roof         | roof |

  Rule: Every plan gets a profile

    Scenario: The former release did not name one
      Given the former release left these plans
        | plan   | profile                |
        | house  |                        |
        | roof   | blanks                 |
        | garden | trusted by the project |
      When the database is upgraded
      Then these are the plans
        | plan   | profile                |
        | house  | balanced by nobody     |
        | roof   | balanced by nobody     |
        | garden | trusted by the project |

  Rule: What was not recorded is not made up

    Scenario: Nobody knows what a profile said before profiles were recorded
      Given the former release left these plans
        | plan  | profile            |
        | house |                    |
        | roof  | cautious by the plan |
      When the database is upgraded
      Then none of them has a profile on record

  Rule: Nothing else changes

    Scenario: All else about a plan is as it was
      Given the former release left these plans
        | plan  | part of | tree | profile |
        | house |         |      |         |
        | roof  | house   |      |         |
      When the database is upgraded
      Then all else about them is as it was

    Scenario: An upgrade that was done already
      Given the former release left these plans
        | plan  | part of | tree |
        | house |         |      |
        | roof  | house   |      |
      And the database was upgraded
      When the database is upgraded
      Then nothing has changed

    Scenario: A correction of a plan stays
      Given the former release left these plans
        | plan  |
        | house |
      And a correction of "house"
      When the database is upgraded
      Then there is a correction of "house"

    Scenario: A correction goes with its plan
      Given the former release left these plans
        | plan  |
        | house |
      And a correction of "house"
      And the database was upgraded
      When somebody deletes "house"
      Then there is no correction

    Scenario: Nobody can correct a plan that is not there
      Given corrections are kept beside the plans
      And the database was upgraded
      When somebody tries to correct a plan that is not there
      Then it is refused
      And there is no correction

  Rule: An upgrade that cannot be done changes nothing

    Scenario: Plans that are parts of each other have no root
      Given the former release left these plans
        | plan  | part of |
        | house | roof    |
        | roof  | house   |
        | shed  |         |
      When somebody tries to upgrade the database
      Then they are told "are their own ancestors and have no root"
      And they are told the plans "house" and "roof"
      And nothing has changed

  @use.with_engine=postgresql
  Rule: The former release may go on for as long as it runs

    Scenario: It goes on leaving gaps
      Given the former release left these plans
        | plan  |
        | house |
      And the database was upgraded
      When the former release stores these plans
        | plan  | part of | profile |
        | roof  | house   |         |
        | tiles | roof    | blanks  |
      Then these are the plans
        | plan  | part of | tree  | profile            |
        | house |         | house | balanced by nobody |
        | roof  | house   | house | balanced by nobody |
        | tiles | roof    | house | balanced by nobody |
